"""Environments of jobs, made by the real installers from wheels that are made here."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dstack_agent.environments.equipping import Equipped, Equipper
from dstack_agent.environments.installing import LOG
from dstack_agent.environments.keeping import KeptEnvironments
from dstack_agent.executor import landlock, pythons
from dstack_agent.executor.environment import VIRTUAL_ENVIRONMENT
from dstack_agent.executor.masking import why_no_masks
from dstack_agent.executor.virtualenv import layer_of
from dstack_agent.jobs.places import Places
from dstack_mesh.faults import Invalid, MeshError, Refused, TooLate
from support.eventually import eventually
from support.launches import spec_of
from support.wheels import lines, make_wheel

OTHERS = [version for version in ("3.8", "3.12") if pythons.find(version) is not None]


class Bench:
    """A home whose jobs want something installed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wheels = root / "wheels"
        make_wheel(self.wheels, "thing", "1")
        make_wheel(self.wheels, "thing", "2")
        make_wheel(self.wheels, "user", "1", needs=("thing",))
        self.kept = KeptEnvironments(root / "home" / "environments", root / "home" / "jobs")
        pyenv = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
        person = {"HOME": str(root / "person"), "PYENV_ROOT": pyenv}
        ambient = {"PATH": os.environ["PATH"], **person}
        self.equipper = Equipper(self.kept, ambient)
        (root / "person").mkdir()
        self.told: list[str] = []

    def job(
        self, number: int, *wanted: str, installs: Sequence[str] = (), **how: object
    ) -> Equipped:
        folder = self.kept.jobs / f"run.{number}.1"
        work = folder / "work"
        work.mkdir(parents=True)
        (work / "r.txt").write_text(lines(self.wheels, *wanted))
        changes = {name: how.pop(name) for name in ("python", "env", "image") if name in how}
        spec = spec_of("true", installs=tuple(installs or ("-r r.txt",)), **changes)
        return Equipped(spec, folder, Places(work, "", self.root / "person"), **how)  # type: ignore[arg-type]

    async def equip(self, job: Equipped) -> Path:
        async def note(sentence: str) -> None:
            self.told.append(sentence)

        await self.equipper.equip(job, note)
        return job.folder / VIRTUAL_ENVIRONMENT

    @property
    def built(self) -> list[str]:
        """Folders of kept environments."""
        return [each.name for each in self.kept.root.iterdir() if each.is_dir()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ran(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def says(environment: Path, code: str) -> str:
    return ran(environment / "bin" / "python", "-c", code)


def poison(module: Path) -> None:
    assert module.stat().st_mode & 0o222 == 0
    module.chmod(0o644)
    module.write_text("VERSION = 'poisoned'\n")


def project(folder: Path, backend: str) -> None:
    """A project whose wheel is built by these lines."""
    folder.mkdir()
    system = '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
    (folder / "pyproject.toml").write_text(system)
    also = "prepare_metadata_for_build_wheel = build_wheel\n"
    (folder / "b.py").write_text(f"def build_wheel(*_, **__):\n{backend}{also}")


async def test_the_second_job_has_it_at_once_and_nothing_is_installed(bench: Bench) -> None:
    first = await bench.equip(bench.job(1, "user"))
    told = len(bench.told)
    second = await bench.equip(bench.job(2, "user"))
    for environment in (first, second):
        assert says(environment, "import thing, user, sys; print(thing.VERSION, sys.prefix)") == (
            f"2 {environment}"
        )
    assert bench.told[0].startswith("Installing r.txt for Python 3.")
    assert (len(bench.told), len(bench.built)) == (told, 1)
    assert not (second.parent / LOG).exists()


async def test_scripts_run_with_the_job_s_python_and_data_lie_below_its_prefix(
    bench: Bench,
) -> None:
    await bench.equip(bench.job(1, "thing"))
    environment = await bench.equip(bench.job(2, "thing"))
    assert ran(environment / "bin" / "thing") == f"2 {environment}"
    assert (environment / "share" / "thing" / "page.txt").read_text() == "2"


@pytest.mark.parametrize("python", OTHERS)
async def test_the_python_that_was_asked_for_is_the_one(bench: Bench, python: str) -> None:
    environment = await bench.equip(bench.job(1, "thing==1", python=python))
    version = says(environment, "import sys, thing; print('%d.%d' % sys.version_info[:2])")
    assert version == python


async def test_jobs_that_want_the_same_at_once_build_it_once(bench: Bench) -> None:
    jobs = [bench.job(number, "user") for number in range(3)]
    await asyncio.gather(*(bench.equip(job) for job in jobs))
    assert len(bench.built) == 1
    assert sum((job.folder / LOG).exists() for job in jobs) == 1
    assert any(told.startswith("Waiting for another job") for told in bench.told)


async def test_what_one_job_does_to_its_environment_no_other_one_sees(bench: Bench) -> None:
    first = await bench.equip(bench.job(1, "thing==1"))
    install = (sys.executable, "-m", "pip", "--python", str(first / "bin" / "python"), "install")
    newer = ("-q", "--no-index", "--find-links", str(bench.wheels), "thing==2")
    ran(*install, *newer)
    (first / "bin" / "thing").write_text("#!/bin/sh\nfalse\n")
    second = await bench.equip(bench.job(2, "thing==1"))
    look = "import thing; print(thing.VERSION)"
    assert [says(each, look) for each in (first, second)] == ["2", "1"]
    assert len(bench.built) == 1


async def test_what_a_job_wrote_into_a_kept_environment_does_not_reach_the_next(
    bench: Bench,
) -> None:
    """Root is kept out by no mode; and then it is noticed."""
    first = await bench.equip(bench.job(1, "thing==1"))
    poison(Path(says(first, "import thing; print(thing.__file__)")))
    second = await bench.equip(bench.job(2, "thing==1"))
    assert says(second, "import thing; print(thing.VERSION)") == "1"
    assert layer_of(first) != layer_of(second)
    assert layer_of(first) in [bench.kept.root / name for name in bench.built], "it is in use"


async def test_files_of_the_job_are_installed_for_it_alone(bench: Bench) -> None:
    job = bench.job(1, installs=(f"--no-index {bench.wheels / 'thing-1-py3-none-any.whl'}",))
    wheel = make_wheel(job.places.work / "wheels", "thing", "3")
    alone = bench.job(2, installs=(f"--no-index wheels/{wheel.name}",))
    make_wheel(alone.places.work / "wheels", "thing", "3")
    environment = await bench.equip(alone)
    assert says(environment, "import thing; print(thing.VERSION)") == "3"
    assert layer_of(environment) is None


async def test_nothing_is_installed_for_a_container(bench: Bench) -> None:
    job = bench.job(1, installs=("./evil",), image="x")
    ran_here = bench.root / "ran"
    project(job.places.work / "evil", f"    open({str(ran_here)!r}, 'w')\n")
    with pytest.raises(Refused) as refused:
        await bench.equip(job)
    assert (refused.value.code, ran_here.exists()) == ("installs-in-container", False)


async def test_each_install_is_done_in_its_order(bench: Bench) -> None:
    where = f"--no-index --find-links {bench.wheels}"
    installs = (f"{where} thing==1", f"{where} -U thing==2")
    environment = await bench.equip(bench.job(1, installs=installs))
    assert says(environment, "import thing; print(thing.VERSION)") == "2"


async def test_what_cannot_be_installed_is_said_in_the_installer_s_words(bench: Bench) -> None:
    with pytest.raises(Refused) as refused:
        await bench.equip(bench.job(1, "thing", "nobody-made-this==7"))
    assert refused.value.code == "not-installed"
    assert "nobody-made-this" in refused.value.why
    assert bench.built == []


async def test_what_takes_too_long_to_install_ends(bench: Bench) -> None:
    job = bench.job(1, installs=("-r r.txt", "--no-index ./slow"))
    project(job.places.work / "slow", "    import time\n    time.sleep(60)\n")
    bench.equipper.longest_seconds = 1
    with pytest.raises(TooLate) as late:
        await bench.equip(job)
    assert late.value.code == "not-installed"


class SlowlySealed(KeptEnvironments):
    """Takes a while to say that one is whole."""

    sealing, sealed = False, False

    def seal(self, key: str, folder: Path, about: str) -> None:
        self.sealing = True
        time.sleep(0.3)
        KeptEnvironments.seal(self, key, folder, about)
        self.sealed = True


async def test_nothing_is_removed_while_it_is_still_sealed(bench: Bench) -> None:
    bench.equipper.kept = slow = SlowlySealed(bench.kept.root, bench.kept.jobs)
    waiting = asyncio.create_task(bench.equip(bench.job(1, "thing")))
    await asyncio.to_thread(eventually, lambda: slow.sealing, within=30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (slow.sealed, bench.built) == (True, [])
    environment = await bench.equip(bench.job(2, "thing"))
    assert says(environment, "import thing; print(thing.VERSION)") == "2"


async def test_who_stops_waiting_leaves_nothing_behind(bench: Bench) -> None:
    slow = bench.job(1, installs=("-r r.txt", "./slow"))
    began = bench.root / "began"
    project(
        slow.places.work / "slow",
        "    import os, pathlib, time\n"
        f"    pathlib.Path({str(began)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n",
    )
    waiting = asyncio.create_task(bench.equip(slow))
    await asyncio.to_thread(eventually, lambda: began.exists() and began.read_text(), within=30)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(eventually, lambda: _ended(int(began.read_text())), within=5)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_secrets_reach_the_installer_and_neither_its_log_nor_an_error(bench: Bench) -> None:
    token = "hunter2hunter2"
    env = {"MAX_JOBS": "${{ secrets.T }}"}
    job = bench.job(1, installs=("--no-index ./loud",), env=env, secrets={"T": token})
    project(
        job.places.work / "loud",
        "    import os\n    raise RuntimeError('is ' + os.environ['MAX_JOBS'])\n",
    )
    with pytest.raises(MeshError) as refused:
        await bench.equip(job)
    said = (job.folder / LOG).read_text() + str(refused.value)
    assert "is **************" in said
    assert token not in said


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
async def test_somebody_else_s_installer_has_the_walls_of_the_job(bench: Bench) -> None:
    canary = bench.root / "person" / "canary"
    canary.write_text("canary")
    mine = await bench.equip(bench.job(1, "thing==1"))
    kept = layer_of(mine)
    hidden = (bench.root / "home", bench.root / "person")
    job = bench.job(2, installs=("--no-index ./spy",), whose="eve", hidden=hidden)
    project(
        job.places.work / "spy",
        "    tried = []\n"
        f"    for path, mode in (({str(canary)!r}, 'r'), ({str(kept)!r} + '/pyvenv.cfg', 'a')):\n"
        "        try:\n"
        "            open(path, mode)\n"
        "            tried.append('open')\n"
        "        except OSError as error:\n"
        "            tried.append(error.strerror)\n"
        "    raise RuntimeError(f'saw {tried}')\n",
    )
    with pytest.raises(Refused):
        await bench.equip(job)
    refused = "Permission denied" if why_no_masks() else "No such file or directory"
    assert f"saw ['{refused}', '{refused}']" in (job.folder / LOG).read_text()


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
async def test_variables_of_a_job_are_not_heeded_before_its_walls_are_there(bench: Bench) -> None:
    """The loader of programs heeds some, as LD_PRELOAD; this one has it write a file."""
    env = {"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(bench.root / "person" / "loader")}
    hidden = (bench.root / "home", bench.root / "person")
    job = bench.job(1, "thing", "x==${LD_DEBUG}${LD_DEBUG_OUTPUT}", env=env, hidden=hidden)
    with pytest.raises(Refused) as refused:
        await bench.equip(job)
    assert refused.value.code == "not-installed"
    assert list((bench.root / "person").iterdir()) == []


async def test_what_was_built_for_one_person_serves_nobody_else(bench: Bench) -> None:
    await bench.equip(bench.job(1, "thing", whose="ana"))
    await bench.equip(bench.job(2, "thing", whose="eve"))
    assert len(bench.built) == 2


async def test_what_the_agent_has_needs_no_index(bench: Bench) -> None:
    """As a tool of a provider in a lab without the internet."""
    job = bench.job(1, installs=("click",), env={"UV_OFFLINE": "1", "PIP_NO_INDEX": "1"})
    await bench.equip(job)
    assert bench.told == []
    assert not bench.kept.root.exists()


DAEMON = """    import os, signal, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for handle in (0, 1, 2):
            os.close(handle)
        open({file!r}, "w").write(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    while not (os.path.exists({file!r}) and open({file!r}).read()):
        time.sleep(0.01)
"""

KILL_WHAT_WATCHES = """    pid = os.getpid()
    while b"starting.py" not in open(f"/proc/{pid}/cmdline", "rb").read():
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)
"""


@pytest.mark.parametrize("also", ["", KILL_WHAT_WATCHES])
async def test_what_an_installer_left_running_ends_with_it(bench: Bench, also: str) -> None:
    left = bench.root / "left"
    job = bench.job(1, installs=("--no-index ./daemon",))
    fails = "    raise RuntimeError('made no wheel')\n"
    project(job.places.work / "daemon", DAEMON.format(file=str(left)) + also + fails)
    with pytest.raises(Refused):
        await bench.equip(job)
    assert _ended(int(left.read_text()))


async def test_a_name_that_no_program_can_have_is_said(bench: Bench) -> None:
    for how in ({"installs": ("a\0b",)}, {"env": {"MAX_JOBS": "a\0b"}}):
        with pytest.raises(Invalid) as invalid:
            await bench.equip(bench.job(len(bench.told) + 1, "thing", **how))  # type: ignore[arg-type]
        assert "NUL" in str(invalid.value)
        bench.told.append("")
