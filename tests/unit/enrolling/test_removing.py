"""What is taken away on a host, and what stays there."""

import io
import re
from pathlib import Path

from dstack_cli.enrolling.there import look, remove
from dstack_cli.enrolling.there.places import OWN, Places
from dstack_mesh.home import Home

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def quiet(told: str) -> None:
    """Nobody hears how far it is."""


def added(root: Path) -> Places:
    """A folder as an agent that was added leaves it."""
    places = Places(str(root))
    for name in OWN:
        (root / name).mkdir(parents=True)
        (root / name / "x").touch()
    places.serve.touch()
    return places


def purge(root: Path) -> None:
    request = {"home": str(root), "purge": True}
    assert remove.answer(request, io.BytesIO(), quiet)["there"]


def test_with_its_data_the_folder_of_an_agent_goes(tmp_path: Path) -> None:
    added(tmp_path / "agent")
    purge(tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_the_agents_stays_whatever_folder_was_named(tmp_path: Path) -> None:
    added(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.tex").touch()
    (tmp_path / ".bashrc").touch()
    purge(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".bashrc", "draft.tex", "thesis"]


def test_a_folder_with_other_things_in_it_is_seen_before_anything_is_changed(
    tmp_path: Path,
) -> None:
    def other(home: Path) -> str:
        request = {"home": str(home), "listen": "127.0.0.1:0", "usual_listen": ""}
        return look.answer(request, io.BytesIO(), quiet)["other"]

    assert other(tmp_path / "nothing") == ""
    places = added(tmp_path)
    assert other(tmp_path) == ""
    (tmp_path / "thesis").mkdir()
    assert other(tmp_path) == "thesis"
    places.noted.write_text('{"kept": "systemd"}')
    assert other(tmp_path) == "", "an agent was added there before"


def test_everything_that_a_home_keeps_is_known_to_be_an_agents() -> None:
    home = Home(Path("/h"))
    values = (getattr(home, name) for name in dir(Home) if not name.startswith("_"))
    paths = {path for path in values if isinstance(path, Path)} - {home.root}
    table = SECURITY.read_text().partition("## Where things are")[2]
    told = {
        Path(name).parts[0] for name in re.findall(r"`([\w./-]+)`", table.partition("\n## ")[0])
    }
    assert {path.relative_to(home.root).parts[0] for path in paths} <= OWN
    assert OWN - told == set()
