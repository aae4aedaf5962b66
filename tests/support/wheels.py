"""Wheels that are made here, so that what is installed needs no network."""

import zipfile
from pathlib import Path


def make_wheel(
    folder: Path, name: str, version: str = "1", needs: tuple[str, ...] = (), **files: str
) -> Path:
    """A wheel with a module that says its version, a script of the same name and a data file.

    Args:
        needs: What it requires.
        files: Further modules, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {each}\n" for each in needs)
    script = f"import sys, {name}\ndef main(): print({name}.VERSION, sys.prefix)\n"
    parts = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        f"{name}/script.py": script,
        **{f"{name}/{module}.py": text for module, text in files.items()},
        f"{name}-{version}.data/data/share/{name}/page.txt": version,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name} = {name}.script:main\n",
    }
    parts[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in parts)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in parts.items():
            archive.writestr(path, text)
    return wheel


def lines(wheels: Path, *wanted: str) -> str:
    """A file of requirements that takes them from a folder alone."""
    return "\n".join(("--no-index", f"--find-links {wheels}", *wanted, ""))
