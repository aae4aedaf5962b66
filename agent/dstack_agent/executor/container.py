"""What a container gets: pure decisions, so that a test can hold them against a golden example.

The container has no capabilities and no way to gain any, no namespace, device or socket of the
host, and nothing mounted but the job's own folders. It runs as the person whose agent it is, so
that what it writes is theirs.
"""

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dstack_agent.executor.environment import CONTAINER_HOME
from dstack_mesh.faults import Refused
from dstack_scheduler.job import JobSpec
from dstack_scheduler.job_paths import named

WORK = PurePosixPath("/workflow")
COMMANDS = PurePosixPath("/run/commands.sh")
"""Where commands are that are too long for an argument."""

OUTSIDE = "outside"
"""Folder of a job: what its container has at an absolute path lies below it."""

AGENT_LABEL, FOLDER_LABEL = "run.dstack.agent", "run.dstack.folder"
"""Labels of a container: whose it is, and of which job's folder."""

PIDS = 4096
_KERNEL = ("/proc", "/sys", "/dev", "/run/secrets")
_OWN = ("/", "/bin", "/etc", "/home", "/lib", "/root", "/run", "/sbin", "/usr", "/var", str(WORK))
SECRETS = PurePosixPath("/run/secrets")
"""Where a job finds its secrets as files."""

_OF_HOOKS = re.compile(r"(LD|NVIDIA)_\w*")
_FOR_US = ("NVIDIA_VISIBLE_DEVICES",)
_FROM_IMAGES = ("LD_LIBRARY_PATH",)
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = "dstack"
"""What our shell in a container calls itself."""

_SECRETS_WHOLE = "DSTACK_SECRETS_WHOLE"
_NO_SECRETS = 125

ENVIRONMENT = SECRETS / ".environment"
"""What a container's job has for variables, in memory, for a command beside it to read."""

_KEEP = f"(umask 077; export -p >{ENVIRONMENT}) 2>/dev/null || :\n"

_READ_KEPT = f"""if [ -r {ENVIRONMENT} ]; then . {ENVIRONMENT}; fi
exec "$@"
"""

_ANY_SHELL = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi"

_READ_SECRETS = f"""given=
while IFS= read -r line; do given="$given$line
"; done
eval "$given"; unset given line
if [ "${{{_SECRETS_WHOLE}-}}" != 1 ]
then echo 'the secrets did not arrive' >&2; exit {_NO_SECRETS}
fi
unset {_SECRETS_WHOLE}
"""

_CHOOSE_SHELL = """if command -v bash >/dev/null 2>&1; then set -- bash -c "$1"
else set -- sh -c "$1"; fi
"""

# A shell that is told to end ends at once, and the container with it. This one outlives the others,
# so that a program below it has the rest of the grace to save what it has.
_RUN = """trap 'stopping=1' TERM
"$@" </dev/null
code=$?
if [ "${stopping-}" ]; then
  while kill -0 -1 2>/dev/null; do sleep 0.1 2>/dev/null || sleep 1; done
fi
exit $code
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image runs by itself, and the variables that it sets."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Variables:
    """The environment of a container.

    Attributes:
        outer: What the engine is told, and whoever asks it; None takes a variable of the image
            away.
        inner: What is set within: programs of the machine that prepare the container, as the hook
            of the NVIDIA toolkit, would obey it.
    """

    outer: Mapping[str, str | None]
    inner: Mapping[str, str]


def variables(env: Mapping[str, str], image: Image) -> Variables:
    """The environment of a container: what the job sees, on top of what the image sets.

    Args:
        env: Without what secrets are filled into.
    """
    hooks = {name for name in (*image.env, *env) if _OF_HOOKS.fullmatch(name)} - set(_FOR_US)
    outer = {name: value for name, value in env.items() if name not in hooks}
    kept = {name: image.env[name] for name in _FROM_IMAGES if name in image.env}
    inner = kept | {name: value for name, value in env.items() if name in hooks}
    return Variables(outer | dict.fromkeys(hooks & set(image.env)), inner)


@dataclass(frozen=True, slots=True)
class Started:
    """What a container runs. None leaves it to the image."""

    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the job and where the container has it."""

    source: Path
    target: PurePosixPath
    read_only: bool = False


def started(
    spec: JobSpec,
    script: str,
    image: Image,
    secrets: bool,
    inner: Mapping[str, str] | None = None,
) -> Started:
    """What the container runs.

    Args:
        inner: Variables that are set within.

    Commands run in one shell, bash where the image has it. An entrypoint of the workflow takes the
    commands as its last argument. Without either the image runs what it runs.
    """
    begin = _exports(inner or {}) + (_READ_SECRETS if secrets else "")
    begin += _KEEP if begin else ""
    if script and not spec.entrypoint:
        return _wrapped(begin + _CHOOSE_SHELL + _RUN, (script,))
    own = spec.entrypoint or image.entrypoint
    argv = (*own, *((script,) if script else () if spec.entrypoint else image.command))
    if begin:
        return _wrapped(begin + _RUN, argv)
    if not spec.entrypoint:
        return Started(None, None)
    return Started(spec.entrypoint, (script,) if script else ())


def _exports(values: Mapping[str, str]) -> str:
    named = {name: each for name, each in values.items() if _SHELL_NAME.fullmatch(name)}
    return "".join(f"export {name}={shlex.quote(each)}\n" for name, each in named.items())


def _wrapped(wrapper: str, argv: tuple[str, ...]) -> Started:
    return Started(("/bin/sh", "-c", wrapper, _NAME), argv)


def beside(words: Sequence[str], entrypoint: Sequence[str]) -> list[str]:
    """What runs beside the job of a container, with the job's variables.

    Args:
        words: Program and arguments; none for a shell.
        entrypoint: What the container runs.
    """
    argv = list(words) or ["/bin/sh", "-c", _ANY_SHELL]
    kept = list(entrypoint[-1:]) == [_NAME]
    return ["/bin/sh", "-c", _READ_KEPT, _NAME, *argv] if kept else argv


def secrets_text(secrets: Mapping[str, str], filled: Mapping[str, str] | None = None) -> str:
    """Shell lines that export each secret and write it to `/run/secrets/NAME`; empty for none.

    Args:
        filled: Variables that hold secrets; exported alone.
    """
    if not secrets and not filled:
        return ""
    lines = ["umask 077"]
    for name, value in secrets.items():
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            lines.append(f"printf %s {shlex.quote(value)} >{SECRETS}/{name}")
    lines.append(_exports({**(filled or {}), **secrets}).rstrip("\n"))
    return "\n".join([*lines, "umask 022", f"{_SECRETS_WHOLE}=1", ""])


def mounts(spec: JobSpec, folder: Path, work: Path) -> list[Mount]:
    """The job's folders in the container: the code, the home, absolute artifacts, inputs, caches.

    A cache that would hide a part of the container is none.

    Raises:
        Refused: An absolute path would hide a part of the container that belongs to it.
    """
    outside = folder / OUTSIDE
    kept = {_target(path) for path in _absolute(spec, spec.artifacts)}
    given = {_target(path) for path in _absolute(spec, (each.path for each in spec.inputs))}
    caches = {_plain(path) for path in _absolute(spec, spec.cache)}
    free = {target for target in caches if not _hides(target)}
    targets = [PurePosixPath(CONTAINER_HOME), *sorted(kept | given | free)]
    return [
        Mount(work, WORK),
        *(Mount(outside / target.relative_to("/"), target) for target in dict.fromkeys(targets)),
    ]


def working_dir(spec: JobSpec) -> PurePosixPath:
    """Where the commands start: in the code, or where else the image has it."""
    return WORK / posixpath.normpath(spec.working_dir)


def behind(path: PurePosixPath, placed: Iterable[Mount]) -> Path | None:
    """What the machine has of the job at a path of its container; None if it is the image's own.

    A link on the way is not followed, so that it may lead anywhere.
    """
    over = [each for each in placed if path.is_relative_to(each.target)]
    if not over:
        return None
    nearest = max(over, key=lambda mount: len(mount.target.parts))
    return nearest.source / path.relative_to(nearest.target)


def name_of(spec: JobSpec) -> str:
    """The container's name: one attempt cannot have two."""
    return f"dstack-{spec.key.run_id}-{spec.key.job}-{spec.key.attempt}"


def labels_of(spec: JobSpec, agent: str, folder: Path) -> dict[str, str]:
    """How an agent finds its containers again."""
    return {
        "run.dstack.run": spec.key.run_id,
        "run.dstack.job": str(spec.key.job),
        "run.dstack.attempt": str(spec.key.attempt),
        AGENT_LABEL: agent,
        FOLDER_LABEL: str(folder),
    }


def limits(spec: JobSpec) -> dict[str, int]:
    """Limits of the host configuration, for what the job asked for."""
    needs = spec.needs
    asked = {
        "mem_limit": needs.memory_bytes,
        "memswap_limit": needs.memory_bytes,
        "nano_cpus": needs.cpus * 10**9,
        "shm_size": needs.shm_bytes,
    }
    return {"pids_limit": PIDS} | {name: value for name, value in asked.items() if value}


def _absolute(spec: JobSpec, paths: Iterable[str]) -> Iterator[str]:
    named_ones = (named(path, spec.working_dir) for path in paths)
    return (path for path in named_ones if path.startswith("/"))


def _plain(path: str) -> PurePosixPath:
    return PurePosixPath("/" + path.lstrip("/"))  # two slashes would be another root


def _hides(target: PurePosixPath) -> bool:
    """Whether a mount there would hide a part of the container that belongs to it."""
    kernel = any(target.is_relative_to(each) for each in _KERNEL)
    return str(target) in _OWN or kernel or ".." in target.parts


def _target(path: str) -> PurePosixPath:
    target = _plain(path)
    if _hides(target):
        raise Refused(
            f"The path {path} cannot be kept or filled.",
            "It belongs to the container itself.",
            "Name a folder of its own, as /data/model.",
            "path-not-allowed",
        )
    return target
