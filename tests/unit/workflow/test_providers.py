"""Providers: ours by a table, and those that packages bring, whole or broken."""

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

import pytest

from dstack_mesh.faults import Refused
from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.providers.installed import BrokenProvider, read
from dstack_scheduler.providers.port import Direct, Provider
from dstack_scheduler.providers.registry import FILES, PROVIDERS, provider_of
from dstack_scheduler.workflow.model import Workflow

SWEEP = """
from dstack_scheduler.providers.port import Direct, Provider, one_job
from dstack_scheduler.workflow.keys import COMMANDS

SWEEP = Provider(
    name="{name}",
    about="Runs commands twice",
    keys={{"commands": COMMANDS}},
    required=("commands",),
    direct=Direct(usage="dstack run sweep"),
    appends_args=False,
    jobs=lambda workflow, variables: one_job(workflow, variables, workflow.commands * {times}),
)
"""


def package(folder: Path, name: str, source: str, points: Mapping[str, str]) -> Path:
    """Installs a package that has one module."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in points.items())
    (info / "entry_points.txt").write_text(f"[dstack.providers]\n{lines}")
    return folder


def brought_by(folder: Path) -> Mapping[str, Provider | BrokenProvider]:
    sys.path.insert(0, str(folder))
    try:
        return read(
            [one for dist in distributions(path=[str(folder)]) for one in dist.entry_points]
        )
    finally:
        sys.path.remove(str(folder))


def test_each_of_ours_is_found_by_its_name() -> None:
    for name in FILES:
        assert PROVIDERS[name].name == name
        assert PROVIDERS[name].direct.usage.startswith(f"dstack run {name}")
        assert set(PROVIDERS[name].direct.first) <= set(PROVIDERS[name].keys)
        assert {one.key for one in PROVIDERS[name].direct.options} <= set(PROVIDERS[name].keys)
        assert set(PROVIDERS[name].required) <= set(PROVIDERS[name].keys)


def test_a_package_brings_a_provider(tmp_path: Path) -> None:
    package(
        tmp_path, "lab_sweep", SWEEP.format(name="sweep", times=2), {"sweep": "lab_sweep:SWEEP"}
    )

    found = brought_by(tmp_path)["sweep"]

    assert isinstance(found, Provider)
    assert found.package == "lab_sweep"
    (job,) = found.jobs(Workflow("twice", "sweep", commands=("echo a",)), {})
    assert job.commands == ("echo a", "echo a")


@pytest.mark.parametrize(
    ("source", "point", "why"),
    [
        ("import nothing_of_that_name", "broken_one:X", "ModuleNotFoundError"),
        ("raise SystemError('by itself')", "broken_two:X", "SystemError: by itself"),
        ("X = 3", "broken_three:X", "is no Provider"),
        ("X = 3", "broken_four:Y", "AttributeError"),
        (SWEEP.format(name="other", times=1), "broken_five:SWEEP", "it calls itself other"),
    ],
)
def test_a_broken_package_says_what_is_wrong_with_it(
    tmp_path: Path, source: str, point: str, why: str
) -> None:
    package(tmp_path, point.partition(":")[0], source, {"sweep": point})

    found = brought_by(tmp_path)["sweep"]

    assert isinstance(found, BrokenProvider)
    assert why in found.why
    assert found.package == point.partition(":")[0]


def test_of_two_packages_with_one_name_neither_counts(tmp_path: Path) -> None:
    for name in ("lab_one", "lab_two"):
        package(tmp_path, name, SWEEP.format(name="sweep", times=1), {"sweep": f"{name}:SWEEP"})

    found = brought_by(tmp_path)["sweep"]

    assert isinstance(found, BrokenProvider)
    assert found.why.endswith("brings one of that name too")


def test_a_mistake_of_a_package_is_told_as_its_own(tmp_path: Path) -> None:
    source = SWEEP.format(name="sweep", times="None")
    package(tmp_path, "lab_mistaken", source, {"sweep": "lab_mistaken:SWEEP"})
    found = brought_by(tmp_path)["sweep"]
    assert isinstance(found, Provider)

    with pytest.raises(Refused, match=r'"sweep" of the package lab_mistaken failed') as told:
        found.jobs(Workflow("twice", "sweep", commands=("echo a",)), {})

    assert told.value.code == "provider-failed"


def test_a_name_that_is_ours_is_never_a_packages() -> None:
    def jobs(workflow: Workflow, variables: Mapping[str, str]) -> tuple[PlannedJob, ...]:
        return ()

    theirs = Provider("bash", "", {}, (), Direct(), False, jobs)

    assert provider_of("bash") is PROVIDERS["bash"]
    assert provider_of("bash") is not theirs


def test_the_command_lists_tells_of_and_plans_with_what_packages_bring(tmp_path: Path) -> None:
    package(
        tmp_path, "lab_sweep", SWEEP.format(name="sweep", times=2), {"sweep": "lab_sweep:SWEEP"}
    )
    package(tmp_path, "lab_broken", "import nothing_of_that_name", {"waves": "lab_broken:X"})
    (tmp_path / ".dstack").mkdir()
    (tmp_path / ".dstack/workflows.yaml").write_text(
        "workflows:\n  - {name: twice, provider: sweep, commands: [date]}\n"
        "  - {name: never, provider: waves}\n"
    )

    listed = dstack(tmp_path, "run")
    assert "Runs commands twice" in listed
    assert "cannot be used: ModuleNotFoundError" in listed
    assert "Usage: dstack run sweep" in dstack(tmp_path, "run", "sweep", "--help")
    assert dstack(tmp_path, "validate", "twice") != ""
    assert "of the package lab_broken cannot be used" in dstack(tmp_path, "validate", "never")


def dstack(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dstack")), *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "DSTACK_HOME": str(folder / "h")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr
