"""Where a daemon's settings come from, and what it says of wrong ones."""

import socket
from pathlib import Path

import pytest

from dstack_agent.settings import DEFAULT_PORT, TABLE, Settings, read_settings
from dstack_mesh.faults import Invalid
from dstack_mesh.home import Home
from dstack_scheduler.gpus import DeclaredGpu


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def settings(home: Path, env: dict[str, str] | None = None, **flags: object) -> Settings:
    return read_settings({"home": str(home), **flags}, env or {})


def config(home: Path, text: str) -> None:
    (home / "config.yaml").write_text(text)


def test_a_bare_start_needs_nothing(home: Path) -> None:
    assert settings(home) == Settings(Home(home), socket.gethostname())
    assert settings(home).port == DEFAULT_PORT


def test_flags_come_before_environment_before_config_before_defaults(home: Path) -> None:
    config(home, "name: of-config\nlisten: 127.0.0.1:1\nmax_jobs: 3\nmdns: off\n")
    env = {"DSTACK_NAME": "of-env", "DSTACK_LISTEN": "127.0.0.1:2"}
    read = settings(home, env, name="of-flag")
    assert (read.name, read.host, read.port) == ("of-flag", "127.0.0.1", 2)
    assert (read.max_jobs, read.mdns, read.allow_process) == (3, False, True)


def test_a_flag_that_was_not_given_says_nothing(home: Path) -> None:
    not_given = {each.name: () if each.repeated else None for each in TABLE if each.name != "home"}
    assert settings(home, {"DSTACK_MDNS": "0"}, **not_given).mdns is False
    assert settings(home, {"DSTACK_MDNS": "0"}, mdns=True).mdns is True
    assert settings(home, {"DSTACK_MDNS": ""}).mdns is True


def test_the_home_can_be_named_by_the_environment(tmp_path: Path) -> None:
    assert read_settings({}, {"DSTACK_HOME": str(tmp_path)}).home == Home(tmp_path)
    other = tmp_path / "other"
    read = read_settings({"home": str(other)}, {"DSTACK_HOME": str(tmp_path)})
    assert read.home == Home(other)


def test_cards_are_declared_in_every_place(home: Path) -> None:
    two = (DeclaredGpu("V100", 16 * 10**9, 2), DeclaredGpu("RTX 4090", 24 * 10**9))
    assert settings(home, gpus=("V100:16GB:2", "RTX 4090:24GB")).gpus == two
    assert settings(home, {"DSTACK_GPUS": "V100:16GB:2, RTX 4090:24GB"}).gpus == two
    config(home, "gpus: ['V100:16GB:2', 'RTX 4090:24GB']\n")
    assert settings(home).gpus == two


def test_seeds_add_up(home: Path) -> None:
    config(home, "seeds: [ws-3:7420]\n")
    env = {"DSTACK_SEEDS": "ws-2:7420, 10.0.0.7:1"}
    read = settings(home, env, seeds=("ws-1:7420", "ws-2:7420"))
    assert list(read.seeds) == ["ws-1:7420", "ws-2:7420", "10.0.0.7:1", "ws-3:7420"]


def test_a_private_agent_leaves_when_idle_and_others_stay(home: Path) -> None:
    assert settings(home, private=True).idle_seconds == 600
    assert settings(home, private=True, idle="5").idle_seconds == 5
    assert settings(home, private=True, idle="0").idle_seconds is None
    assert settings(home).idle_seconds is None
    assert settings(home, {"DSTACK_IDLE": "1.5"}).idle_seconds == 1.5


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("0.0.0.0:0", "0.0.0.0", 0), ("[::]:7420", "::", 7420), ("ws-1:65535", "ws-1", 65535)],
)
def test_where_to_listen_is_host_and_port(home: Path, text: str, host: str, port: int) -> None:
    read = settings(home, listen=text)
    assert (read.host, read.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "7420"),
        ("listen", ":7420"),
        ("listen", "host:"),
        ("listen", "host:65536"),
        ("listen", "host:-1"),
        ("listen", "::1:7420"),
        ("mdns", "maybe"),
        ("private", "2"),
        ("idle", "soon"),
        ("idle", "-1"),
        ("idle", "nan"),
        ("max_jobs", "0"),
        ("max_log", "1"),
        ("max_log", "1KiB"),
        ("keep_days", "0"),
        ("keep_days", "nan"),
        ("max_jobs", "many"),
        ("max_jobs", "1.5"),
        ("name", "two words"),
        ("name", "x" * 64),
        ("process", "si"),
        ("gpus", "V100"),
        ("seeds", "ws-1"),
    ],
)
def test_a_wrong_value_is_named_with_its_origin(home: Path, name: str, value: str) -> None:
    setting = next(each for each in TABLE if each.name == name)
    with pytest.raises(Invalid) as of_env:
        settings(home, {setting.env: value})
    assert value in str(of_env.value)
    flags: dict[str, object] = {name: (value,) if setting.repeated else value}
    with pytest.raises(Invalid) as of_flag:
        settings(home, None, **flags)
    assert value in str(of_flag.value)
    if name not in ("gpus", "seeds"):
        assert setting.env in of_env.value.what
        assert setting.flag in of_flag.value.what


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mdns: [", "not valid YAML"),
        ("- a\n- b\n", "map of settings"),
        ("mdns: 7\n", "mdns in"),
        ("max_jobs: true\n", "max_jobs in"),
        ("gpus: 3\n", "gpus in"),
        ("listen: 7420\n", "listen in"),
    ],
)
def test_a_wrong_config_is_named_with_its_file(home: Path, text: str, says: str) -> None:
    config(home, text)
    with pytest.raises(Invalid) as raised:
        settings(home)
    assert says in raised.value.what
    assert str(home / "config.yaml") in raised.value.what


def test_what_the_config_says_to_others_is_left_to_them(home: Path) -> None:
    config(home, "placement: remote\non_interrupt: stop\n7: x\n")
    assert settings(home) == Settings(Home(home), socket.gethostname())


def test_every_setting_has_a_flag_a_twin_and_words() -> None:
    assert len({each.name for each in TABLE}) == len(TABLE)
    for each in TABLE:
        assert each.flag.startswith("--")
        assert each.env.startswith("DSTACK_")
        assert each.default
        assert each.effect.endswith(".")
        assert each.switch or each.name == "name" or each.unit
