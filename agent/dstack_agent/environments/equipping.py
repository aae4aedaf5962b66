"""Gives a job the environment that it asked for: kept from before, or installed now and kept.

What the words of a recipe alone decide is built once, under a lock, in a folder of its own, and
laid under the environments of all jobs with these words. Everything else is installed into the
job's own environment. An installer runs with the rights that the job will have.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from dstack_agent.environments.installing import LOG, Installer, Say, install
from dstack_agent.environments.keeping import KeptEnvironments
from dstack_agent.environments.recipe import Recipe, check_installs, read_recipe
from dstack_agent.environments.tools import Pip, conda_argv, names_files, options_of, pip_for
from dstack_agent.executor import pythons
from dstack_agent.executor.environment import (
    HOME,
    TMP,
    VIRTUAL_ENVIRONMENT,
    process_base,
    python_of,
)
from dstack_agent.executor.foreign import remove_tree
from dstack_agent.executor.pythons import Interpreter
from dstack_agent.executor.virtualenv import make_virtual_environment
from dstack_agent.executor.walls import Walls, outside, walls_of
from dstack_agent.jobs.places import Places
from dstack_mesh.faults import Refused, TooLate
from dstack_mesh.frozen import frozen
from dstack_mesh.to_the_end import to_the_end
from dstack_scheduler.job import JobSpec
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.secret import filled, named_in

LONGEST_SECONDS = 3600.0
"""What takes longer to install than this hangs: a job has its cards meanwhile."""

SAY_SECONDS = 1.0
"""Between two words on how an installation goes."""

AGAIN_SECONDS = 0.5
"""Before a lock is tried again that another process has."""

_CONDA_PREFIX = "conda"
"""Folder of a job for an environment of conda's that serves nobody else."""

Note = Callable[[str], Awaitable[None]]


@frozen
class Equipped:
    """A job that wants something installed.

    Attributes:
        folder: The job's own.
        places: Where its code lies by now.
        whose: Of others' jobs, who gave them; empty for the owner's.
        hidden: Folders of the machine that it sees nothing of.
        secrets: Values by name, for what of the workflow is for an installer.
    """

    spec: JobSpec
    folder: Path
    places: Places
    whose: str = ""
    hidden: tuple[Path, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class Equipper:
    """Equips the jobs of one agent.

    Attributes:
        ambient: The agent's own environment.
        longest_seconds: What all that a job wants may take to install.
    """

    kept: KeptEnvironments
    ambient: Mapping[str, str] = field(default_factory=lambda: os.environ)
    longest_seconds: float = LONGEST_SECONDS
    _building: dict[str, asyncio.Lock] = field(default_factory=dict[str, asyncio.Lock])

    async def equip(self, job: Equipped, note: Note) -> None:
        """Returns once the job's environment has what it asked for; at once if that is nothing.

        Raises:
            MeshError: It cannot be installed, with the installer's words as the reason.
        """
        if not job.spec.installs:
            return
        check_installs(job.spec)
        try:
            async with asyncio.timeout(self.longest_seconds):
                await self._equip(job, note)
        except TimeoutError as error:
            raise TooLate(
                "The requirements were not installed.",
                f"After {self.longest_seconds / 60:.0f} minutes the installer had not ended.",
                f"{job.folder / LOG} has what it said.",
                "not-installed",
            ) from error

    async def _equip(self, job: Equipped, note: Note) -> None:
        await to_the_end(partial(_begin_anew, job.folder))
        python = python_of(job.spec, self.ambient)
        machine = _machine(job, python, self.ambient)
        values = {**machine, **job.spec.env}
        options = options_of(values)
        recipe = await asyncio.to_thread(
            *(read_recipe, job.spec.installs, python, job.places.work, job.places.start),
            *(options, job.whose, values),
        )
        if recipe.is_empty:
            return
        never = job.spec.prebuild is Prebuild.NEVER
        if never or not recipe.shared or names_files(options):
            await self._install_alone(job, recipe, note)
            return
        async with self._turn(recipe, note):
            layer = await to_the_end(partial(self.kept.find, recipe.key))
            if layer is None or job.spec.prebuild is Prebuild.FORCE:
                layer = await self._build(job, recipe, note)
            await to_the_end(partial(_lay, recipe, layer, job.folder))
        await to_the_end(self.kept.keep_within_bounds)

    @asynccontextmanager
    async def _turn(self, recipe: Recipe, note: Note) -> AsyncGenerator[None]:
        """Has nobody else build, use for the first time or remove it meanwhile."""
        lock = self._building.setdefault(recipe.key, asyncio.Lock())
        if lock.locked():
            await note(f"Waiting for another job that installs the same: {recipe.told}.")
        try:
            async with lock:
                while True:
                    with self.kept.locked(recipe.key) as mine:
                        if mine:
                            yield
                            return
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            if not lock.locked():
                self._building.pop(recipe.key, None)

    async def _build(self, job: Equipped, recipe: Recipe, note: Note) -> Path:
        """Builds it in a new folder, which is removed unless all went well."""
        draft = await to_the_end(partial(self.kept.draft, recipe.key))
        whole = False
        try:
            if recipe.conda is None:
                make = partial(make_virtual_environment, recipe.python, draft, alone=True)
                await to_the_end(make)
            await self._install(job, recipe, draft, draft, note)
            await to_the_end(partial(self.kept.seal, recipe.key, draft, recipe.told))
            whole = True
        finally:
            if not whole:
                await asyncio.shield(asyncio.to_thread(remove_tree, draft))
        return draft

    async def _install_alone(self, job: Equipped, recipe: Recipe, note: Note) -> None:
        """Installs into the job's own environment."""
        root, python, layer = job.folder / VIRTUAL_ENVIRONMENT, recipe.python, None
        if recipe.conda is not None:
            layer = job.folder / HOME / _CONDA_PREFIX
            await self._install(job, recipe, layer, None, note)
            python = pythons.of_conda(layer) or python
        await to_the_end(partial(remove_tree, root))
        await to_the_end(partial(make_virtual_environment, python, root, layer))
        await self._install(job, recipe, layer, root, note)

    async def _install(
        self, job: Equipped, recipe: Recipe, prefix: Path | None, root: Path | None, note: Note
    ) -> None:
        """Runs the installers, conda's first, and says every second how it goes.

        Args:
            prefix: Where conda makes its environment; None if it did.
            root: Where pip installs; None for not yet.
        """
        env = _machine(job, recipe.python, self.ambient) | _given(job, recipe)
        walls = _walls_of(job, recipe, prefix or root)
        log, hidden = job.folder / LOG, tuple(job.secrets.values())
        async with _progress(recipe, note) as say:
            if recipe.conda is not None and prefix is not None and root in (None, prefix):
                conda = conda_argv(recipe.conda, prefix, self.ambient, job.hidden)
                await self._run(conda, (), job.places.start, env, walls, hidden, log, say)
            if root is None or not recipe.steps:
                return
            python = pythons.of_conda(root) or recipe.python
            pip = await asyncio.to_thread(
                pip_for, python, root, env.get("PATH", ""), not job.hidden
            )
            if pip.before:
                before = replace(pip, argv=pip.before)
                await self._run(before, (), job.places.start, env, walls, hidden, log, say)
            for step in recipe.steps:
                await self._run(pip, step, job.places.start, env, walls, hidden, log, say)

    async def _run(
        self,
        pip: Pip,
        arguments: Sequence[str],
        start: Path,
        env: Mapping[str, str],
        walls: Walls | None,
        hidden: Sequence[str],
        log: Path,
        say: Say,
    ) -> None:
        told = {**pip.env, **env}
        installer = Installer((*pip.argv, *arguments), start, told, walls, hidden)
        await install(installer, log, say)


def _begin_anew(folder: Path) -> None:
    """What an earlier life of the agent left of the job's environment may be half of it."""
    remove_tree(folder / VIRTUAL_ENVIRONMENT)
    remove_tree(folder / HOME / _CONDA_PREFIX)
    for name in (TMP, HOME):
        (folder / name).mkdir(mode=0o700, exist_ok=True)


def _lay(recipe: Recipe, layer: Path, folder: Path) -> None:
    """Lays the job's own environment on a kept one; an installer may have left something there."""
    python = recipe.python
    if recipe.conda is not None:
        python = pythons.of_conda(layer) or python
    remove_tree(folder / VIRTUAL_ENVIRONMENT)
    make_virtual_environment(python, folder / VIRTUAL_ENVIRONMENT, layer)


def _machine(job: Equipped, python: Interpreter, ambient: Mapping[str, str]) -> dict[str, str]:
    """What an installer sees of the machine: what the job will, and how the owner installs."""
    base = process_base(job.spec, job.folder, ambient)
    del base["VIRTUAL_ENV"]
    if not job.hidden:
        return base | options_of(ambient)
    seen = outside(base["PATH"], job.hidden, python.path)
    return base | {"PATH": seen, "HOME": str(job.folder / HOME)}


def _given(job: Equipped, recipe: Recipe) -> dict[str, str]:
    """What of the workflow is for an installer, secrets filled in."""
    wanted = {name: text for name, text in job.spec.env.items() if _for_installer(name, recipe)}
    lacking = {name for text in wanted.values() for name in named_in((text,))} - set(job.secrets)
    if lacking:
        raise Refused(
            "The job's secrets are gone.",
            f"What is installed needs {', '.join(sorted(lacking))}.",
            "Run it again.",
            "secrets-lost",
        )
    return {name: filled(text, job.secrets) for name, text in wanted.items()}


def _for_installer(name: str, recipe: Recipe) -> bool:
    return name in recipe.variables or bool(options_of({name: ""}))


def _walls_of(job: Equipped, recipe: Recipe, target: Path | None) -> Walls | None:
    """What an installer of somebody else's job gets at: what the job does, and its target."""
    if not job.hidden:
        return None
    walls = walls_of(job.hidden, job.folder, recipe.python.path, "")
    return replace(walls, writable=(*walls.writable, *([str(target)] if target else [])))


@asynccontextmanager
async def _progress(recipe: Recipe, note: Note) -> AsyncGenerator[Say]:
    """Says what is installed, for how long by now, and the installer's last line."""
    began = time.monotonic()
    last = ""

    def say(line: str) -> None:
        nonlocal last
        last = line.strip()

    async def tell() -> None:
        while True:
            spent = f"{time.monotonic() - began:.0f} s"
            what = f"Installing {recipe.told} for Python {recipe.python.version}, {spent}"
            await note(f"{what}: {last}" if last else f"{what}.")
            await asyncio.sleep(SAY_SECONDS)

    telling = asyncio.create_task(tell())
    try:
        yield say
    finally:
        telling.cancel()
