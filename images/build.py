"""Builds the images of `scheduler/dstack_scheduler/images.py`, and publishes them if asked to.

    python images/build.py                                   all of them, for this machine
    python images/build.py dstack/python:3.11 dstack/cuda     some of them
    python images/build.py --push registry.lab/tools          and pushes them to a registry

An agent pulls them from there with `dstack-runner start --images registry.lab/tools`.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dstack_scheduler.images import IMAGES, own_image, own_images

HERE = Path(__file__).resolve().parent


def main(arguments: Sequence[str]) -> int:
    """Builds one after the other; the exit code of the first that fails."""
    parser = argparse.ArgumentParser(description="Builds the images of dstack-mesh.")
    parser.add_argument("names", nargs="*", help="as dstack/python:3.11; all of them by default")
    parser.add_argument("--push", metavar="REGISTRY", help="publish them there, as host/namespace")
    parser.add_argument("--arg", action="append", default=[], help="passed on as --build-arg")
    chosen = parser.parse_args(arguments)
    names = [own_image(name) for name in chosen.names] or [*own_images()]
    if None in names:
        parser.error(f"there are {', '.join(IMAGES)}, with a version such as :3.11")
    for name in filter(None, names):
        for command in steps(name, chosen.push, chosen.arg):
            print(" ".join(command), flush=True)
            code = subprocess.run(command, check=False).returncode
            if code:
                return code
    return 0


def steps(name: str, registry: str | None, extra: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The commands for one image."""
    kind, _, version = name.partition(":")
    arguments = (f"PYTHON={version}", *extra)
    given = [word for each in arguments for word in ("--build-arg", each)]
    yield ("docker", "build", "-t", name, *given, str(HERE / IMAGES[kind].folder))
    if registry:
        there = f"{registry.rstrip('/')}/{name.rpartition('/')[2]}"
        yield ("docker", "tag", name, there)
        yield ("docker", "push", there)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
