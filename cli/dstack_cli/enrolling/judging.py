"""What of a host stands in the way of an agent, and what is only worth knowing.

All of it at once, before anything is changed: nobody likes to hear of one trouble after another.
"""

from collections.abc import Sequence

from dstack_cli.enrolling.facts import Facts
from dstack_cli.enrolling.pythons import OLDEST, Looked
from dstack_cli.enrolling.target import Target
from dstack_cli.output.words import duration, size
from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import MeshId

CLOCK_SECONDS = 300.0
"""A certificate begins an hour before it is made; times in listings should be right too."""

SOCKET_BYTES = 107
LOW_DISK_BYTES = 10 * 2**30


@frozen
class Problem:
    """Something in the way, and what would remove it."""

    code: str
    message: str
    fix: str


def of_system(looked: Looked) -> list[Problem]:
    """What keeps anything of ours from running at all."""
    if looked.system != "Linux":
        why = f"An agent needs Linux; this is {looked.system}."
        return [Problem("not-linux", why, "Choose a Linux machine.")]
    if any(one.usable for one in looked.pythons):
        return []
    found = ", ".join(f"{one.path} ({one.told})" for one in looked.pythons) or "none"
    oldest = f"{OLDEST[0]}.{OLDEST[1]}"
    return [
        Problem(
            "no-python-there",
            f"An agent needs CPython {oldest} or newer; found: {found}.",
            f"apt install python{oldest}   (an administrator), or without one: "
            f"uv python install {oldest}",
        )
    ]


def of_facts(facts: Facts, mesh_id: MeshId, listen: str, needed_bytes: int) -> list[Problem]:
    """What keeps an agent of this mesh from serving there."""
    checks = (
        _mesh(facts, mesh_id),
        _folder(facts),
        _disk(facts, needed_bytes),
        _clock(facts),
        _port(facts, listen),
    )
    return [problem for problem in checks if problem is not None]


def notes(facts: Facts) -> list[str]:
    """What is worth knowing and stands in nobody's way."""
    said: list[str] = []
    if facts.docker == "group":
        said.append(
            "Jobs with an image will not run: its user may not use Docker. "
            f"An administrator: usermod -aG docker {facts.user}"
        )
    if facts.disk_free_bytes < LOW_DISK_BYTES:
        said.append(f"Only {size(facts.disk_free_bytes)} are free there for jobs.")
    return said


def trouble(target: Target, problems: Sequence[Problem]) -> MeshError:
    """All problems as one error; the code is the problem's own where there is one."""
    one = problems[0]
    if len(problems) == 1:
        return Refused(f"{target} cannot be an agent yet.", one.message, one.fix, code=one.code)
    return Refused(
        f"{target} cannot be an agent yet, for {len(problems)} reasons.",
        "\n".join(f"{problem.code}: {problem.message}" for problem in problems),
        "\n".join(line for problem in problems for line in problem.fix.splitlines()),
        code="host-not-ready",
    )


def _mesh(facts: Facts, mesh_id: MeshId) -> Problem | None:
    if facts.mesh_id in ("", mesh_id):
        return None
    return Problem(
        "host-in-other-mesh",
        f'{facts.root} is a member of another mesh, "{facts.mesh_name}".',
        "A second agent beside it: --remote-home DIR --listen 0.0.0.0:PORT\n"
        f"Or it leaves that mesh, on the host: rm {facts.root}/keys/membership.json",
    )


def _folder(facts: Facts) -> Problem | None:
    if facts.cannot_write:
        return Problem(
            "host-not-writable",
            f"{facts.user} may not write {facts.cannot_write}.",
            "Choose another folder there: --remote-home DIR",
        )
    if facts.other:
        return Problem(
            "host-folder-taken",
            f"{facts.root} holds what is no agent's, as {facts.other}.",
            "Choose a folder of its own there: --remote-home DIR",
        )
    if facts.socket_bytes > SOCKET_BYTES:
        return Problem(
            "path-too-long",
            f"The path of its socket has {facts.socket_bytes} bytes; {SOCKET_BYTES} are allowed.",
            "Choose a shorter folder there: --remote-home DIR",
        )
    return None


def _disk(facts: Facts, needed_bytes: int) -> Problem | None:
    if facts.disk_free_bytes >= needed_bytes:
        return None
    return Problem(
        "host-disk-full",
        f"{size(facts.disk_free_bytes)} are free at {facts.root}; the software alone needs "
        f"{size(needed_bytes)}.",
        "Free some space there, or choose another folder: --remote-home DIR",
    )


def _clock(facts: Facts) -> Problem | None:
    ahead = facts.clock_ahead_seconds
    if abs(ahead) <= CLOCK_SECONDS:
        return None
    side = "ahead of" if ahead > 0 else "behind"
    return Problem(
        "host-clock-off",
        f"Its clock is {duration(abs(ahead))} {side} this machine's; certificates go by the clock.",
        "timedatectl set-ntp true   (an administrator, on the one that is wrong)",
    )


def _port(facts: Facts, listen: str) -> Problem | None:
    if not facts.port_trouble:
        return None
    return Problem(
        "host-port-taken",
        f"An agent cannot listen there at {listen}: {facts.port_trouble}.",
        "Choose another port: --listen 0.0.0.0:7421",
    )
