"""The house keeps its own rules: style, types, import contracts, the protocol's promises."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("agent", "cli", "mesh", "scheduler", "tests", "bench")


def run(*command: str) -> None:
    """Runs a tool in the root of the repository, after what is timed beside it in a whole run.

    Raises:
        AssertionError: It found something; its output is the message.
    """
    last = ("nice", "-n", "15", *command)
    ended = subprocess.run(last, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}{ended.stderr}"


def tool(name: str) -> str:
    """The tool beside this interpreter, or on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", *FOLDERS)


def test_every_file_is_formatted() -> None:
    run(tool("ruff"), "format", "--check", *FOLDERS)


def test_pyright_strict_finds_nothing() -> None:
    run(tool("pyright"), "--pythonpath", sys.executable)


def test_imports_only_go_down() -> None:
    run(tool("lint-imports"), "--no-cache")


def test_an_import_that_goes_up_would_be_found(tmp_path: Path) -> None:
    """The negative control of the import contracts."""
    for folder in ("agent", "cli", "mesh", "scheduler"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    guilty = tmp_path / "mesh" / "dstack_mesh" / "clock.py"
    guilty.write_text(guilty.read_text() + "\nimport dstack_cli.main\n")
    ended = subprocess.run(
        (tool("lint-imports"), "--no-cache"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(tmp_path / f) for f in FOLDERS[:4])},
    )
    assert ended.returncode != 0
    assert "dstack_mesh.clock -> dstack_cli.main" in ended.stdout


def speaks_grpc(source: str) -> bool:
    """Whether a module imports gRPC or generated code, at its top or within."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return any(name.split(".")[0] == "grpc" or name.startswith("dstack_mesh.v1") for name in names)


def test_grpc_is_imported_only_below_wire_and_servicers() -> None:
    guilty = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS[:4]
        for path in (ROOT / folder).rglob("*.py")
        if not {"wire", "servicers", "v1"} & set(path.parts) and speaks_grpc(path.read_text())
    ]
    assert guilty == []


def test_an_import_of_grpc_would_be_found() -> None:
    """The negative control of the test above."""
    assert speaks_grpc("def f():\n    import grpc.aio\n")
    assert speaks_grpc("from dstack_mesh.v1 import run_pb2")
    assert not speaks_grpc("from dstack_mesh.wire import channels")


def buf() -> str:
    """The buf command, or a skip with the reason."""
    found = shutil.which("buf")
    if found is None:
        if os.environ.get("DSTACK_TEST_ALL_PARTS"):
            pytest.fail("buf is not on PATH: npm install @bufbuild/buf")
        pytest.skip("buf is not on PATH (npm install @bufbuild/buf)")
    return found


def test_protos_keep_the_style() -> None:
    run(buf(), "lint")
    run(buf(), "format", "--diff", "--exit-code")


def test_protos_break_no_released_peer() -> None:
    run(buf(), "breaking", "--against", "protos/released.binpb")


def test_a_breaking_change_would_be_found(tmp_path: Path) -> None:
    """The negative control of the breaking check."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    proto = tmp_path / "protos" / "dstack_mesh" / "v1" / "membership.proto"
    proto.write_text(proto.read_text().replace("string version = 5;", "string version = 50;"))
    ended = subprocess.run(
        (buf(), "breaking", "--against", str(ROOT / "protos" / "released.binpb")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 100


def test_a_module_is_split_before_400_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for folder in FOLDERS[:4]
        for path in (ROOT / folder).rglob("*.py")
        if "/v1/" not in str(path) and (count := len(path.read_text().splitlines())) > 400
    ]
    assert long == []


def test_no_module_has_a_homeless_name() -> None:
    homeless = {"utils.py", "helpers.py", "common.py", "misc.py", "manager.py", "base.py"}
    found = [
        str(path.relative_to(ROOT))
        for folder in (*FOLDERS[:5], "bench")
        for path in (ROOT / folder).rglob("*.py")
        if path.name in homeless
    ]
    assert found == []
