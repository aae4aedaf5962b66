"""Generates the Python code of the protocol into mesh/dstack_mesh/v1 (git-ignored).

The path of a proto below `protos/` is the import path of its code below `mesh/`, so nothing that
protoc writes needs patching.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def generate() -> None:
    protos, out = ROOT / "protos", ROOT / "mesh"
    # protoc finds its plugins on PATH, where an environment that nobody activated is missing.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    files = sorted(str(proto) for proto in protos.rglob("*.proto"))
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}"),
        *(f"--python_out={out}", f"--grpc_python_out={out}"),
        *(f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"),
        *files,
    ]
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})
    (out / "dstack_mesh" / "v1" / "__init__.py").touch()


if __name__ == "__main__":
    generate()
