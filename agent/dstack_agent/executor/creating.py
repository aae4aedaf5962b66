"""Makes containers with Docker's own library. Everything here blocks: call it in a thread."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dstack_agent.executor import container_sshd
from dstack_agent.executor.conda import hook_of_image
from dstack_agent.executor.container import (
    COMMANDS,
    FOLDER_LABEL,
    OUTSIDE,
    SECRETS,
    Image,
    Mount,
    behind,
    labels_of,
    limits,
    mounts,
    name_of,
    secrets_text,
    started,
    variables,
    working_dir,
)
from dstack_agent.executor.guarding import guard
from dstack_agent.executor.meeting import Meeting, meet, told
from dstack_agent.executor.networks import NO_NETWORK, gateway_of, network_of, shut_metadata
from dstack_agent.executor.nodes import LOOPBACK
from dstack_agent.executor.port import Launch
from dstack_agent.executor.starting import unprepared
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.machine import Gpu
from dstack_scheduler.images import IMAGES, OURS, is_ours, own_image
from dstack_scheduler.providers.sshd import START
from dstack_scheduler.secret import filled
from dstack_scheduler.shell import script

_LONGEST_ARGUMENT = 100_000
_CALL_SECONDS = 60
_KNOCK_SECONDS = 5
_LOG_SIZE = {"max-size": "1g", "max-file": "8", "compress": "false"}
_SAY_SECONDS = 1.0


class Client(Protocol):
    """What we use of the SDK's `APIClient`, whose own types are incomplete."""

    def containers(self, *, all: bool, filters: dict[str, str]) -> list[dict[str, Any]]: ...
    def create_container(self, **options: Any) -> dict[str, Any]: ...
    def connect_container_to_network(self, container: str, net_id: str) -> None: ...
    def create_network(self, name: str, **options: Any) -> dict[str, Any]: ...
    def create_host_config(self, **options: Any) -> dict[str, Any]: ...
    def inspect_image(self, image: str) -> dict[str, Any]: ...
    def networks(self, names: list[str]) -> list[dict[str, Any]]: ...
    def remove_network(self, net_id: str) -> None: ...
    def pull(
        self, repository: str, *, stream: bool, decode: bool, auth_config: dict[str, str] | None
    ) -> Iterator[dict[str, Any]]: ...
    def tag(self, image: str, repository: str, tag: str) -> object: ...
    def get_archive(self, container: str, path: str) -> tuple[Iterable[bytes], Any]: ...
    def put_archive(self, container: str, path: str, data: bytes) -> bool: ...
    def remove_container(self, container: str, *, force: bool, v: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Creation:
    """A container to make.

    Attributes:
        shut: What of the machine no container may have, by whatever path.
        stopped: Whether the job was stopped meanwhile.
        on_pull: Is told how far the image is pulled.
        registry: Where images of our own are pulled from; empty for nowhere.
    """

    launch: Launch
    socket: Path
    agent: str
    stopped: Callable[[], bool]
    on_pull: Callable[[Path, str], None] | None
    shut: tuple[Path, ...] = ()
    registry: str = ""

    @property
    def image(self) -> str:
        """The image's name on this machine."""
        image = self.launch.spec.image
        return own_image(image) or image


def create(creation: Creation) -> tuple[str, str]:
    """The id of a new container, and what it must be given on its standard input.

    Raises:
        Refused: For the reason in its code.
    """
    launch = creation.launch
    with _engine(creation.socket) as engine:
        image = _image(engine, creation)
        if creation.stopped():
            raise Refused("The job was stopped before its container was made.", code="stopped")
        _remove(engine, launch.folder, unstarted=True)
        try:
            options = _options(engine, creation, image)
        except OSError as error:
            raise unprepared(error) from error
        made = engine.create_container(**options)
        if launch.ssh:
            container_sshd.give_account(engine, made["Id"], _owner(launch.work))
        if options["host_config"]["NetworkMode"] != NO_NETWORK:
            shut_metadata(engine, made["Id"])
    return str(made["Id"]), secrets_text(launch.given, launch.filled)


def remove_of(socket: Path, folder: Path, unstarted: bool) -> None:
    """Removes the container of a job's folder, or only one that was never started.

    An engine that does not answer is no error: what is left the agent's tidying removes.
    """
    with contextlib.suppress(MeshError), _engine(socket) as engine:
        _remove(engine, folder, unstarted)


def _remove(engine: Client, folder: Path, unstarted: bool) -> None:
    wanted = {"label": f"{FOLDER_LABEL}={folder}"} | ({"status": "created"} if unstarted else {})
    for each in engine.containers(all=True, filters=wanted):
        engine.remove_container(each["Id"], force=True, v=True)


@contextlib.contextmanager
def _engine(path: Path) -> Generator[Client]:
    """A client, whose errors are ours. Raises Refused."""
    _knock(path)
    import docker  # 100 ms and 30 MB that an agent without containers does not pay
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        api: Any = docker.APIClient(base_url=f"unix://{path}", timeout=_CALL_SECONDS)
        with contextlib.closing(api):
            yield api
    except APIError as error:
        raise _refusal(str(error.explanation or error)) from error
    except (DockerException, RequestException) as error:
        raise _not_running(path, str(error)) from error


def _knock(path: Path) -> None:
    """Raises Refused if nobody listens, with the system's reason: the SDK's hides it."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(_KNOCK_SECONDS)
            knock.connect(str(path))
    except OSError as error:
        raise _not_running(path, error.strerror or str(error)) from error


def _refusal(said: str) -> Refused:
    hint = ""
    if "could not select device driver" in said:
        hint = "Install the NVIDIA container toolkit on that machine and restart Docker."
    return Refused("Docker refuses the container.", said, hint, "docker-error")


def _not_running(path: Path, said: str) -> Refused:
    if "Permission denied" in said:
        hint = 'sudo usermod -aG docker "$USER", then log in again'
        return Refused(f"This user may not use Docker ({path}).", said, hint, "no-docker")
    hint = "sudo systemctl start docker"
    return Refused(f"Docker is not running ({path}).", said, hint, "no-docker")


def _image(engine: Client, creation: Creation) -> Image:
    """What the image runs by itself. Pulls it if it is not here. Raises Refused."""
    from docker.errors import APIError

    name = creation.image
    try:
        found = engine.inspect_image(name)
    except APIError:
        try:
            if is_ours(name):
                _bring_ours(engine, creation)
            else:
                _pull(engine, creation, name)
            found = engine.inspect_image(name)
        except APIError as error:
            raise _image_missing(name, str(error.explanation or error)) from error
    config: dict[str, Any] = found.get("Config") or {}
    pairs = (each.partition("=") for each in config.get("Env") or ())
    env = {name: value for name, _, value in pairs}
    return Image(tuple(config.get("Entrypoint") or ()), tuple(config.get("Cmd") or ()), env)


def _bring_ours(engine: Client, creation: Creation) -> None:
    """Pulls an image of our own from where the machine's owner has it, if anywhere."""
    name = creation.image
    if own_image(name) is None or not creation.registry:
        known = own_image(name) is not None
        raise Refused(
            f"The image {name} is not on the machine.",
            "" if known else f"There are {', '.join(IMAGES)}, with a version such as :3.11.",
            f"There: python images/build.py {name}, or dstack-runner start --images REGISTRY"
            if known
            else "",
            "image-missing",
        )
    repository, _, version = name.partition(":")
    there = f"{creation.registry}/{repository.removeprefix(OURS)}:{version}"
    _pull(engine, creation, there)
    engine.tag(there, repository, version)


def _image_missing(name: str, said: str) -> Refused:
    return Refused(
        f"The image {name} is not on the machine and cannot be pulled.",
        said,
        f"Check the name, or run `docker pull {name}` there.",
        "image-missing",
    )


def _pull(engine: Client, creation: Creation, name: str) -> None:
    named = name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"
    layers: dict[str, tuple[int, int]] = {}
    said = 0.0
    auth = _auth(creation.launch)
    for line in engine.pull(named, stream=True, decode=True, auth_config=auth):
        if creation.stopped():
            raise Refused("The job was stopped while its image was pulled.", code="stopped")
        if "error" in line:
            raise _image_missing(name, str(line["error"]))
        detail: dict[str, int] = line.get("progressDetail") or {}
        if detail.get("total"):
            layers[line["id"]] = (detail.get("current", 0), detail["total"])
        if creation.on_pull and layers and time.monotonic() - said >= _SAY_SECONDS:
            said = time.monotonic()
            creation.on_pull(creation.launch.folder, _progress(name, layers))


def _auth(launch: Launch) -> dict[str, str] | None:
    """What the image is pulled with; the engine is told once and keeps nothing of it."""
    auth = launch.spec.registry_auth
    if auth is None:
        return None
    texts = {"username": auth.username, "password": auth.password}
    return {name: filled(text, launch.secrets) for name, text in texts.items()}


def _progress(name: str, layers: dict[str, tuple[int, int]]) -> str:
    done, total = (sum(each) / 1e6 for each in zip(*layers.values(), strict=True))
    return f"Pulling {name}: {done:.0f} of {total:.0f} MB."


def _options(engine: Client, creation: Creation, image: Image) -> dict[str, Any]:
    launch = creation.launch
    spec = launch.spec
    placed = mounts(spec, launch.folder, launch.work)
    user = _owner(launch.work)
    commands = script(spec.commands)
    commands = hook_of_image(spec.commands) + commands if commands else commands
    if len(commands.encode()) > _LONGEST_ARGUMENT:
        placed.append(_commands_file(launch.folder, commands))
        commands = f". {placed[-1].target}"
    if launch.ssh:
        placed.append(container_sshd.lay(launch, user))
    held = launch.filled
    network = network_of(engine) if launch.network else NO_NETWORK
    meeting = _meeting(engine, launch, network)
    seen = {**launch.env, **(told(launch.spec, meeting.node, len(launch.gpus)) if meeting else {})}
    env = variables({name: each for name, each in seen.items() if name not in held}, image)
    secret = bool(held or launch.given)
    runs = started(spec, commands, image, secret, env.inner)
    _make_folders(placed, launch, user)
    guard(placed, launch.folder, (*creation.shut, creation.socket))
    ours = {"TINI_KILL_PROCESS_GROUP": "1"}
    ours |= {"DSTACK_SECRETS_DIR": str(SECRETS)} if launch.given else {}
    ours |= {START: str(container_sshd.SCRIPT)} if launch.ssh else {}
    return {
        "image": creation.image,
        "name": name_of(spec),
        "entrypoint": None if runs.entrypoint is None else list(runs.entrypoint),
        "command": None if runs.command is None else list(runs.command),
        "user": f"{user[0]}:{user[1]}",
        "environment": dict(env.outer) | ours,
        "working_dir": str(working_dir(spec)),
        "labels": labels_of(spec, creation.agent, launch.folder),
        "stdin_open": secret,
        "ports": [*launch.ports, *([meeting.port] if meeting and meeting.published else [])],
        "host_config": _host_config(engine, launch, placed, user, network, meeting),
    }


def _meeting(engine: Client, launch: Launch, network: str) -> Meeting | None:
    """How the job meets the other nodes of its gang; None for a job of its own. Raises Refused."""
    if launch.spec.node is None:
        return None
    if network == NO_NETWORK:
        raise Refused(
            "The job's nodes cannot meet in containers here.",
            "Its containers have no network.",
            "Start Docker with a bridge there, or run the nodes without `image:`.",
            "no-network",
        )
    return meet(launch.spec.node, gateway_of(engine, network))


def _bound(launch: Launch, meeting: Meeting | None) -> dict[int, Any]:
    """Where the machine leads ports to the container: to its own loopback, but where nodes meet."""
    bound: dict[int, Any] = {port: (LOOPBACK, None) for port in launch.ports if launch.network}
    if meeting is not None and meeting.published:
        bound[meeting.port] = (meeting.published, meeting.port)
    return bound


def _host_config(
    engine: Client,
    launch: Launch,
    placed: list[Mount],
    user: tuple[int, int],
    network: str,
    meeting: Meeting | None,
) -> Any:
    from docker.types import LogConfig, Ulimit
    from docker.types import Mount as EngineMount

    return engine.create_host_config(
        mounts=[
            EngineMount(str(each.target), str(each.source), "bind", read_only=each.read_only)
            for each in placed
        ],
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
        ipc_mode="private",
        cgroupns="private",
        network_mode=network,
        log_config=LogConfig(type="local", config=_LOG_SIZE),
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
        tmpfs={str(SECRETS): f"size=1m,mode=0700,uid={user[0]},gid={user[1]}"},
        device_requests=_device_requests(launch.gpus),
        port_bindings=_bound(launch, meeting),
        **limits(launch.spec),
    )


def _device_requests(gpus: tuple[Gpu, ...]) -> list[Any]:
    from docker.types import DeviceRequest

    real = [gpu.uuid for gpu in gpus if not gpu.simulated]
    return [DeviceRequest(device_ids=real, capabilities=[["gpu"]])] if real else []


def _owner(work: Path) -> tuple[int, int]:
    """Who the container runs as: the agent's user; for root, whoever has the work directory."""
    if os.getuid():
        return os.getuid(), os.getgid()
    status = work.stat()
    return status.st_uid, status.st_gid


def _commands_file(folder: Path, commands: str) -> Mount:
    path = folder / "commands.sh"
    path.write_text(commands)
    path.chmod(0o644)
    return Mount(path, COMMANDS, read_only=True)


def _make_folders(placed: list[Mount], launch: Launch, user: tuple[int, int]) -> None:
    """Makes what is mounted and where the commands start, as the person's own.

    What is missing the engine would make, as root's.
    """
    outside = launch.folder / OUTSIDE
    wanted = [each.source for each in placed if each.source.is_relative_to(outside)]
    start = behind(working_dir(launch.spec), placed)
    if start is not None:
        # A link in the code may lead away.
        led, own = start.resolve(), (launch.work.resolve(), outside.resolve())
        wanted += [start] if any(led.is_relative_to(each) for each in own) else []
    missing = {
        folder
        for path in wanted
        for folder in (path, *path.parents)
        if folder.is_relative_to(launch.folder) and not folder.exists()
    }
    for each in sorted(missing):
        each.mkdir(mode=0o755)
        if os.getuid() == 0:
            os.chown(each, *user)
