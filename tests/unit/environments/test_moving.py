"""Environments that were made elsewhere, laid as inputs of a job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_agent.environments.moving import settle, without_interpreters
from dstack_agent.jobs.places import Place
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Refused

MARK = "import sys; print(sys.prefix)"


class Moves:
    """Saves a folder as one machine does and lays it as another does."""

    def __init__(self, root: Path) -> None:
        self.store = ChunkStore(root / "store")
        self.there, self.here = root / "there" / "x", root / "here" / "x"
        self.left_out: tuple[str, ...] = ()

    def move(self) -> Path:
        saved = save_tree(self.store, self.there)
        left = without_interpreters(self.there, saved.skipped)
        self.left_out = tuple(each.path for each in left)
        self.here.parent.mkdir()
        lay_tree(self.store, saved.digest, self.here)
        manifest = self.store.get_manifest(saved.digest)
        settle(manifest, Place(self.here, self.here.parent))
        return self.here


@pytest.fixture
def moves(tmp_path: Path) -> Moves:
    return Moves(tmp_path)


def make(root: Path, *flags: str) -> None:
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", *flags, str(root)), check=True)
    script = root / "bin" / "tool"
    script.write_text(f"#!{root}/bin/python\n{MARK}\n")
    script.chmod(0o755)


def ran(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_virtual_environment_works_where_it_was_laid(moves: Moves) -> None:
    make(moves.there)
    here = moves.move()
    assert ran(here / "bin" / "python", "-c", MARK) == str(here)
    assert ran(here / "bin" / "tool") == str(here)
    activated = ran("sh", "-c", f". {here}/bin/activate; echo $VIRTUAL_ENV; python -c '{MARK}'")
    assert activated.splitlines() == [str(here), str(here)]
    assert moves.left_out == ()


def test_those_below_the_folder_work_too(moves: Moves) -> None:
    make(moves.there / "deep" / "nlp")
    here = moves.move() / "deep" / "nlp"
    assert ran(here / "bin" / "tool") == str(here)
    assert moves.left_out == ()


def test_a_copied_interpreter_stays_the_one_that_was_sent(moves: Moves) -> None:
    make(moves.there, "--copies")
    assert not (moves.move() / "bin" / "python").is_symlink()


def test_where_a_link_goes_no_sender_decides(moves: Moves, tmp_path: Path) -> None:
    make(moves.there)
    for link in moves.there.glob("bin/python*"):
        link.unlink()
        link.symlink_to(tmp_path / "evil")
    (tmp_path / "evil").write_text("#!/bin/sh\necho evil\n")
    (tmp_path / "evil").chmod(0o755)
    here = moves.move()
    assert ran(here / "bin" / "python", "-c", MARK) == str(here)


def test_nothing_is_written_through_a_link(moves: Moves, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make(moves.there)
    saved = save_tree(moves.store, moves.there)
    moves.here.mkdir(parents=True)
    manifest = moves.store.get_manifest(saved.digest)
    (moves.here / "pyvenv.cfg").write_text("version = 3.11.1\nhome = /x\n")
    (moves.here / "bin").symlink_to(outside)
    with pytest.raises(OSError):
        settle(manifest, Place(moves.here, moves.here.parent))
    assert list(outside.iterdir()) == []


def test_a_python_that_this_machine_lacks_is_said(moves: Moves) -> None:
    make(moves.there)
    config = moves.there / "pyvenv.cfg"
    config.write_text(config.read_text().replace("version = 3.", "version = 9."))
    with pytest.raises(Refused) as refused:
        moves.move()
    assert (refused.value.code, "Python 9." in refused.value.what) == ("no-python", True)


def test_other_links_out_of_a_folder_are_left_out_and_said(moves: Moves) -> None:
    make(moves.there)
    (moves.there / "bin" / "data").symlink_to("/etc")
    (moves.there / "sub" / "bin").mkdir(parents=True)
    (moves.there / "sub" / "bin" / "python").symlink_to("/usr/bin/env")
    here = moves.move()
    assert sorted(moves.left_out) == ["bin/data", "sub/bin/python"]
    assert not os.path.lexists(here / "sub" / "bin" / "python")


def test_scripts_of_the_system_s_python_stay_as_they_are(moves: Moves) -> None:
    make(moves.there)
    script = "#!/usr/bin/python3\nprint('/usr/share', '/usr')\n"
    (moves.there / "bin" / "systems").write_text(script)
    assert (moves.move() / "bin" / "systems").read_text() == script


def test_what_lies_beside_an_environment_keeps_its_name(moves: Moves) -> None:
    make(moves.there)
    there = moves.there
    (there / "bin" / "both").write_text(f"#!{there}/bin/python\n# {there}/a {there}2/a {there}\n")
    here = moves.move()
    said = (here / "bin" / "both").read_text()
    assert said == f"#!{here}/bin/python\n# {here}/a {there}2/a {here}\n"


def test_no_script_grows_without_bounds(moves: Moves) -> None:
    make(moves.there)
    script = "#!/a/bin/python\n" + "/a" * 400_000
    (moves.there / "bin" / "many").write_text(script)
    assert (moves.move() / "bin" / "many").read_text() == script
