"""Images of our own by name: `image: dstack/python:3.11`. A new one is a row and a Dockerfile.

They are built by `python images/build.py`. An agent uses one that is on its machine, and else pulls
it from the registry that its owner named; it never asks a public registry for such a name, because
whoever has that name there is not us.
"""

from collections.abc import Mapping
from types import MappingProxyType

from dstack_mesh.frozen import frozen

OURS = "dstack/"
"""What their names begin with."""

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


@frozen
class OwnImage:
    """A kind of image: a folder below `images/`, built for each version of Python.

    Attributes:
        folder: With its Dockerfile.
        latest: The version that is meant where none is named.
    """

    folder: str
    about: str
    versions: tuple[str, ...] = VERSIONS
    latest: str = "3.11"


IMAGES: Mapping[str, OwnImage] = MappingProxyType(
    {
        "dstack/python": OwnImage("python", "Python, git, a compiler and uv"),
        "dstack/conda": OwnImage("conda", "Miniforge with that Python, in /opt/conda"),
        "dstack/cuda": OwnImage("cuda", "CUDA 12.4 with its compiler, and Miniforge"),
    }
)


def is_ours(image: str) -> bool:
    """Whether a name is meant for this table."""
    return image.startswith(OURS)


def own_image(image: str) -> str | None:
    """The full name of an image of ours: `dstack/python` is `dstack/python:3.11`; None for none."""
    name, _, version = image.partition(":")
    row = IMAGES.get(name)
    version = version if version not in ("", "latest") or row is None else row.latest
    return f"{name}:{version}" if row is not None and version in row.versions else None


def own_images() -> tuple[str, ...]:
    """Every name with a version."""
    return tuple(f"{name}:{version}" for name, row in IMAGES.items() for version in row.versions)
