"""How the daemon of one home behaves: flags, then environment, then `config.yaml`, then defaults.

`TABLE` is the one list of settings: the command, its help and the documentation are made of it or
tested against it.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from dstack_agent.values import (
    as_address,
    as_count,
    as_days,
    as_gpus,
    as_name,
    as_registry,
    as_seconds,
    as_size,
    as_switch,
    as_texts,
)
from dstack_mesh.discovery.seeds import all_seeds
from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import Address
from dstack_scheduler.gpus import DeclaredGpu

T = TypeVar("T")

DEFAULT_PORT = 7420

DEFAULT_IDLE_SECONDS = 600.0


@frozen
class Setting:
    """One setting, as the documentation shows it.

    Attributes:
        name: Key in `config.yaml` and field of `Settings`.
        flag: Of `dstack-runner start`.
        env: Its twin.
        default: For people.
        effect: What it does, and its trade-off where it has one.
        unit: Of the value; empty where there is none.
        repeated: May be given several times; in the environment separated by commas.
        switch: Is on or off; the flag's opposite begins with "--no-".
    """

    name: str
    flag: str
    env: str
    default: str
    effect: str
    unit: str = ""
    repeated: bool = False
    switch: bool = False


TABLE = (
    Setting(
        "home",
        "--home",
        "DSTACK_HOME",
        "~/.local/share/dstack",
        "Where everything of this peer is kept. Two homes on one machine are two peers.",
        "folder",
    ),
    Setting(
        "name",
        "--name",
        "DSTACK_NAME",
        "the machine's host name",
        "What members of the mesh call this agent.",
    ),
    Setting(
        "listen",
        "--listen",
        "DSTACK_LISTEN",
        f"0.0.0.0:{DEFAULT_PORT}",
        "Where other peers reach this agent. Port 0 takes any free one, which seeds cannot name.",
        "HOST:PORT",
    ),
    Setting(
        "seeds",
        "--seed",
        "DSTACK_SEEDS",
        "none",
        "Peers to ask for others, for networks that drop multicast. Flags, environment and"
        " config.yaml add up.",
        "HOST:PORT",
        repeated=True,
    ),
    Setting(
        "mdns",
        "--mdns",
        "DSTACK_MDNS",
        "on",
        "Find and be found by multicast on the local network. Off: seeds and memory only.",
        switch=True,
    ),
    Setting(
        "gpus",
        "--gpu",
        "DSTACK_GPUS",
        "none",
        "Declares simulated cards, for tests. Jobs get no real card by it.",
        "NAME:MEMORY[:COUNT]",
        repeated=True,
    ),
    Setting(
        "private",
        "--private",
        "DSTACK_PRIVATE",
        "off",
        "Open no port: only the owner of this home reaches the agent, by a Unix socket.",
        switch=True,
    ),
    Setting(
        "idle",
        "--idle",
        "DSTACK_IDLE",
        f"{DEFAULT_IDLE_SECONDS:.0f} for a private agent, else never",
        "Leave after this time without jobs and callers. 0 is never.",
        "seconds",
    ),
    Setting(
        "max_jobs",
        "--max-jobs",
        "DSTACK_MAX_JOBS",
        "4 or twice the processors, whichever is more",
        "Jobs at once, however little they ask for. Larger packs more, and shares the disk more.",
        "jobs",
    ),
    Setting(
        "max_log",
        "--max-log",
        "DSTACK_MAX_LOG",
        "1GiB",
        "What the log of a job may take on the disk. What is beyond it is lost and said to be; the"
        " job goes on.",
        "size",
    ),
    Setting(
        "max_store",
        "--max-store",
        "DSTACK_MAX_STORE",
        "none",
        "What chunks of code and artifacts may take on the disk. Beyond it nothing is taken from"
        " others, and what no run needs goes after an hour instead of a week; what jobs here keep"
        " is never refused for it. In any case 5 % of the disk, at least 1 GiB, stay free.",
        "size",
    ),
    Setting(
        "max_environments",
        "--max-environments",
        "DSTACK_MAX_ENVIRONMENTS",
        "20GiB",
        "What environments may take on the disk that were installed for jobs and are kept for later"
        " ones. Beyond it those go that were not used for longest; the next job that wants one"
        " installs it again.",
        "size",
    ),
    Setting(
        "images",
        "--images",
        "DSTACK_IMAGES",
        "none",
        "Where the images dstack/python, dstack/conda and dstack/cuda are pulled from, as"
        " registry.lab/tools. None: they must have been built on this machine.",
        "REGISTRY",
    ),
    Setting(
        "keep_days",
        "--keep-days",
        "DSTACK_KEEP_DAYS",
        "30",
        "Logs of jobs that ended longer ago are removed, at the agent's start and every hour, and"
        " the oldest ones beyond 50 GiB in all. Artifacts stay.",
        "days",
    ),
    Setting(
        "keep_work",
        "--keep-work",
        "DSTACK_KEEP_WORK",
        "off",
        "Keep the folder that a job worked in after it ended, to look into it. Costs disk until"
        " `keep_days` are over.",
        switch=True,
    ),
    Setting(
        "process",
        "--process",
        "DSTACK_PROCESS",
        "on",
        "Run jobs without an image as processes of this user. Off: containers only.",
        switch=True,
    ),
    Setting(
        "interruptible",
        "--interruptible",
        "DSTACK_INTERRUPTIBLE",
        "off",
        "This machine may be taken away at any moment, as one at spot price: only jobs that say"
        " `interruptible: true` run here.",
        switch=True,
    ),
)


@frozen
class Settings:
    """What a daemon was told.

    Attributes:
        host: Interface to listen on; unused by a private agent.
        port: 0 for any free port.
        idle_seconds: None to stay for ever.
        max_jobs: None for the default of `dstack_scheduler.fit.Policy`.
        max_store_bytes: None for no limit but the disk's.
        images: Empty for nowhere.
    """

    home: Home
    name: str
    host: str = "0.0.0.0"
    port: int = DEFAULT_PORT
    seeds: tuple[Address, ...] = ()
    mdns: bool = True
    gpus: tuple[DeclaredGpu, ...] = ()
    private: bool = False
    idle_seconds: float | None = None
    max_jobs: int | None = None
    max_log_bytes: int = 1 << 30
    max_store_bytes: int | None = None
    max_environments_bytes: int = 20 << 30
    images: str = ""
    keep_days: float = 30.0
    keep_work: bool = False
    allow_process: bool = True
    interruptible: bool = False


@frozen
class _Given:
    """A value and who gave it."""

    value: object
    origin: str


def read_settings(
    flags: Mapping[str, object], environment: Mapping[str, str] = os.environ
) -> Settings:
    """The settings in effect.

    Args:
        flags: Values by `Setting.name`; None or an empty tuple is a flag that was not given.
        environment: Where the `DSTACK_…` twins are looked up.

    Raises:
        Invalid: A value is wrong; the message names it, where it came from and what would be right.
    """
    home = _home(flags, environment)
    config = _read_config(home)
    given = {each.name: _given(each, flags, environment, config, home) for each in TABLE}
    host, port = _read(given["listen"], as_address, ("0.0.0.0", DEFAULT_PORT))
    private = _read(given["private"], as_switch, False)
    idle = _read(given["idle"], as_seconds, DEFAULT_IDLE_SECONDS if private else 0.0)
    return Settings(
        home=home,
        name=_read(given["name"], as_name, socket.gethostname()),
        host=host,
        port=port,
        seeds=all_seeds(as_texts(flags.get("seeds") or ()), environment, home.config),
        mdns=_read(given["mdns"], as_switch, True),
        gpus=_read(given["gpus"], as_gpus, ()),
        private=private,
        idle_seconds=idle or None,
        max_jobs=_read(given["max_jobs"], as_count, None),
        max_log_bytes=_read(given["max_log"], as_size, 1 << 30),
        max_store_bytes=_read(given["max_store"], as_size, None),
        max_environments_bytes=_read(given["max_environments"], as_size, 20 << 30),
        images=_read(given["images"], as_registry, ""),
        keep_days=_read(given["keep_days"], as_days, 30.0),
        keep_work=_read(given["keep_work"], as_switch, False),
        allow_process=_read(given["process"], as_switch, True),
        interruptible=_read(given["interruptible"], as_switch, False),
    )


def _home(flags: Mapping[str, object], environment: Mapping[str, str]) -> Home:
    chosen = flags.get("home") or environment.get("DSTACK_HOME")
    return Home.of_environment(str(chosen) if chosen else None)


def _read_config(home: Home) -> Mapping[str, object]:
    try:
        text = home.config.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{home.config} cannot be read.", f"{error}.") from error
    # Most homes have no such file, and the parser takes 20 ms to load.
    import yaml

    try:
        loaded: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{home.config} is not valid YAML.", f"{error}.") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise Invalid(f"{home.config} must be a map of settings.", hint="seeds: [ws-1:7420]")
    return cast(dict[str, object], loaded)


def _given(
    setting: Setting,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    config: Mapping[str, object],
    home: Home,
) -> _Given | None:
    """The first that says something: flag, environment, config."""
    flag = flags.get(setting.name)
    if flag is not None and flag != ():
        return _Given(flag, setting.flag)
    if environment.get(setting.env):
        return _Given(environment[setting.env], setting.env)
    if config.get(setting.name) is not None:
        return _Given(config[setting.name], f"{setting.name} in {home.config}")
    return None


def _read(given: _Given | None, parse: Callable[[object], T], default: T) -> T:
    if given is None:
        return default
    try:
        return parse(given.value)
    except ValueError as error:
        shown = f'"{given.value}"' if isinstance(given.value, str) else str(given.value)
        raise Invalid(f"{given.origin} cannot be {shown}.", f"{error}.", code="setting") from error
