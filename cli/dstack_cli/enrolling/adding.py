"""`dstack agents add`, from the first ssh to an agent that answers through the mesh.

Each step looks first and does only what is missing, so the same command repairs what was broken off
and updates what is old. Nothing is changed on the host before all that stands in the way was told.
"""

import asyncio
import getpass
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from dstack_cli import embedded
from dstack_cli.enrolling import added, judging
from dstack_cli.enrolling.asking import Host
from dstack_cli.enrolling.facts import Facts, facts_of
from dstack_cli.enrolling.fetching import fetch_wheels
from dstack_cli.enrolling.finding import find_python
from dstack_cli.enrolling.fitting import Platform, glibc_of
from dstack_cli.enrolling.meeting import Met, meet, remember
from dstack_cli.enrolling.pairing import Pairing
from dstack_cli.enrolling.pythons import HostPython
from dstack_cli.enrolling.repacking import OURS
from dstack_cli.enrolling.ssh import Dialing, Ssh, connected
from dstack_cli.enrolling.steps import Step, Steps
from dstack_cli.enrolling.unit import serve_text, unit_text
from dstack_cli.enrolling.wheelhouse import (
    UNPACKED_TIMES,
    Wheel,
    cache,
    closure,
    make_wheels,
    this_platform,
    unfit,
)
from dstack_cli.output.port import Json
from dstack_cli.output.words import size
from dstack_mesh.faults import Broken, Refused
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import MeshId
from dstack_mesh.trust.membership import Membership, can_invite
from dstack_mesh.version import installed_version

USUAL_LISTEN = "0.0.0.0:7420"
RENEW_BEFORE = timedelta(days=30)
PIECE = 1 << 18


@frozen
class Wish:
    """What the command line asks for. What is empty stays as it was, or as is usual.

    Attributes:
        remote_home: The folder of the agent on the host.
        service: Whether systemd is to keep it running.
    """

    dialing: Dialing
    name: str = ""
    listen: str = ""
    remote_home: str = ""
    service: bool = True


@frozen
class Done:
    """A host that is an agent now.

    Attributes:
        membership: Of the mesh that it is in.
        kept: How it is kept running: "systemd", "detached" or "other".
        stays: Whether it comes back after a restart of the host, with nobody logged in.
        words: The four words that both ends saw; empty where it was a member already.
        notes: What a person should know.
    """

    met: Met
    membership: Membership
    kept: str
    stays: bool
    words: tuple[str, ...]
    notes: tuple[str, ...]


def require_inviter(home: Home) -> Membership:
    """The mesh that a host can be invited into from here. Raises Refused."""
    membership = Membership.require(home)
    if not can_invite(home):
        raise Refused(
            "This home cannot invite.",
            f'Neither the root key of "{membership.mesh_name}" nor an admin\'s is here.',
            "Run it on the machine where `dstack mesh create` was run, or on an admin's.",
            code="cannot-invite",
        )
    membership.check_valid(datetime.now(UTC))
    return membership


def make_mesh(home: Home) -> Membership:
    """A mesh of this person's own, for the first host that is added."""
    from dstack_mesh.trust.authority import create_mesh

    home.prepare()
    membership = create_mesh(home, getpass.getuser(), datetime.now(UTC))
    embedded.retire(home)
    return membership


async def add(home: Home, membership: Membership | None, wish: Wish, steps: Steps) -> Done:
    """Goes through the steps. Raises MeshError where one cannot be done, with the reason.

    Args:
        membership: Of the mesh to add to. None: one is made, once nothing stands in the way.
    """
    target = wish.dialing.target
    try:
        async with AsyncExitStack() as stack:
            async with steps.step("ssh", f"connecting to {target}") as step:
                ssh = await stack.enter_async_context(connected(wish.dialing))
                step.done = str(target)
            return await _enrol(home, membership, wish, steps, ssh)
    except asyncio.CancelledError:
        steps.say(f"\nStopped while {steps.doing}. The same command goes on from there.")
        raise


async def _enrol(
    home: Home, membership: Membership | None, wish: Wish, steps: Steps, ssh: Ssh
) -> Done:
    async with steps.step("check", "looking at the host") as step:
        python = await find_python(ssh)
        host = Host(ssh, python.path)
        facts, wheels = await asyncio.gather(_look(host, wish), asyncio.to_thread(_pack, home))
        needed = UNPACKED_TIMES * sum(wheel.size_bytes for wheel in wheels)
        listen = wish.listen or facts.listen
        mesh_id = membership.mesh_id if membership is not None else MeshId("")
        problems = judging.of_facts(facts, mesh_id, listen or USUAL_LISTEN, needed)
        if problems:
            raise judging.trouble(ssh.target, problems)
        if membership is None:
            membership = await asyncio.to_thread(make_mesh, home)
            facts = await _look(host, wish)  # the host may be this very home
        step.done = _described(facts, python)
    async with steps.step("install", "putting together what it needs") as step:
        wheels = await _for_host(home, wheels, python, step)
        environment = await _install(host, wish, facts, wheels, step)
    runner = runner_of(facts.root)
    words: tuple[str, ...] = ()
    if _is_to_join(facts):
        async with steps.step("join", f'joining "{membership.mesh_name}"') as step:
            words = await Pairing(home, ssh, runner, facts.root).pair()
            step.done = f"{'-'.join(words)} on both sides"
    async with steps.step("start", "starting the agent") as step:
        served = await _serve(host, wish, facts, environment, listen, bool(words))
        step.done = _SERVED[served["kept"]] + ("" if served["again"] else ", and did already")
    async with steps.step("meet", "waiting for it to answer through the mesh") as step:
        try:
            met = await meet(home, ssh, runner, facts.root)
        except Broken:
            if served["again"] or served["kept"] == "other":
                raise
            step.now("starting it again, for it does not answer")
            served = await _serve(host, wish, facts, environment, listen, True)
            met = await meet(home, ssh, runner, facts.root)
        step.done = f"answers at {met.address}"
    remember(home, membership, met)
    _note(home, wish, met)
    return _done(facts, met, membership, served, words)


_SERVED = {
    "systemd": "dstack-runner is a service of its user",
    "detached": "runs as a process of its user",
    "other": "runs already, and was not started from here",
}


async def _look(host: Host, wish: Wish) -> Facts:
    request = {"home": wish.remote_home, "listen": wish.listen, "usual_listen": USUAL_LISTEN}
    asked = time.time()
    answer = await host.ask("look", request, "looking at the host")
    return facts_of(answer, (asked + time.time()) / 2)


def _described(facts: Facts, python: HostPython) -> str:
    said = [facts.system, f"Python {python.told}", f"{size(facts.disk_free_bytes)} free"]
    said += [f"NVIDIA driver {facts.driver}"] if facts.driver else []
    said += ["Docker"] if facts.docker == "yes" else []
    return " · ".join(said)


def _pack(home: Home) -> tuple[Wheel, ...]:
    """Wheels of what is installed here."""
    home.prepare()
    return make_wheels(cache(home), closure())


async def _for_host(
    home: Home, wheels: tuple[Wheel, ...], python: HostPython, step: Step
) -> tuple[Wheel, ...]:
    """The wheels that run there: those of here, or where its Python is another one fetched ones."""
    there = Platform(python.version, python.machine, glibc_of(python.libc))
    wanted = await asyncio.to_thread(closure)
    if not unfit(wanted, there, this_platform()):
        return wheels
    step.now(f"fetching what it needs for {there}")
    ours = tuple(wheel for wheel in wheels if wheel.name.startswith(f"{OURS}-"))
    return (*ours, *await fetch_wheels(cache(home), wanted, there))


async def _install(
    host: Host, wish: Wish, facts: Facts, wheels: Sequence[Wheel], step: Step
) -> str:
    """Sends what is missing and has it installed; returns where."""
    missing = [one for one in wheels if facts.wheels.get(one.name) != one.sha256]
    total = sum(wheel.size_bytes for wheel in missing)
    sent = [{"name": one.name, "size": one.size_bytes, "sha256": one.sha256} for one in missing]
    request: Mapping[str, Json] = {
        "home": wish.remote_home,
        "sent": sent,
        "wanted": [wheel.name for wheel in wheels],
        "version": installed_version(),
    }

    def went(done: int) -> None:
        step.now(f"sending {size(done)} of {size(total)}")

    answer = await host.ask(
        "install",
        request,
        "sending what is missing",
        _bytes_of(missing, went),
        heard=lambda told: step.now(f"unpacking {told}"),
    )
    news = f"{size(total)} sent" if missing else "nothing to send"
    made = "" if answer["fresh"] else ", was installed"
    step.done = f"dstack-mesh {installed_version()}, {news}{made}"
    return str(answer["environment"])


async def _bytes_of(wheels: Sequence[Wheel], went: Callable[[int], None]) -> AsyncIterator[bytes]:
    done = 0
    for wheel in wheels:
        with wheel.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                done += len(piece)
                went(done)


def _is_to_join(facts: Facts) -> bool:
    """Whether it is no member, or soon no longer."""
    if not facts.mesh_id or facts.not_after is None:
        return True
    return facts.not_after - datetime.now(UTC) < RENEW_BEFORE


async def _serve(
    host: Host, wish: Wish, facts: Facts, environment: str, listen: str, restart: bool
) -> Mapping[str, Any]:
    name = wish.name or facts.name
    script = f"{facts.root}/software/serve"
    unit = unit_text(script, facts.root) if wish.service and facts.user_manager else ""
    answer = await host.ask(
        "serve",
        {
            "home": wish.remote_home,
            "serve": serve_text(runner_of(facts.root), facts.root, listen, name, facts.path),
            "unit": unit,
            "environment": environment,
            "restart": restart,
            "ours": not facts.foreign,
            "noted": {"name": name, "listen": listen, "version": installed_version()},
        },
        "starting the agent",
    )
    if answer["trouble"]:
        raise Broken(
            f"The agent of {host.ssh.target} did not start.",
            answer["trouble"],
            f"ssh {host.ssh.target.host} {shlex.quote(script)}   (shows all that it says)",
            code="agent-did-not-start",
        )
    return answer


def runner_of(root: str) -> str:
    """The path of `dstack-runner` on a host."""
    return f"{root}/software/current/bin/dstack-runner"


def _note(home: Home, wish: Wish, met: Met) -> None:
    dialing = wish.dialing
    added.note(
        home,
        added.Added(
            met.known.card.name,
            met.known.card.peer_id,
            str(dialing.target),
            dialing.identity,
            dialing.options,
            wish.remote_home,
        ),
    )


def _done(
    facts: Facts,
    met: Met,
    membership: Membership,
    served: Mapping[str, Any],
    words: tuple[str, ...],
) -> Done:
    notes = judging.notes(facts)
    match served["kept"], served["no_unit"]:
        case "other", _:
            notes.append("Restart it there for the version that was installed now.")
        case _, "linger":
            notes.append(
                "It does not come back after a restart of the host, since its user's services end "
                "with the last login. An administrator, once: "
                f"loginctl enable-linger {facts.user}   (then run this again)"
            )
        case "detached", _:
            notes.append(
                "It does not come back after a restart of the host. Then, on the host: "
                f"setsid {facts.root}/software/serve   (or run this again)"
            )
        case _:
            pass
    kept = str(served["kept"])
    return Done(met, membership, kept, kept == "systemd", words, tuple(notes))
