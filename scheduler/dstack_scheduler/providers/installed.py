"""Providers that other packages bring: entry points of the group `dstack.providers`.

An entry point names a `Provider`, and its name is the provider's:

    [project.entry-points."dstack.providers"]
    sweep = "lab_tools.sweep:SWEEP"

Looking them up reads the metadata of every package, so it is done for names that nobody knows and
for lists alone. A package that cannot be loaded is told of where its provider is asked for, and is
in nobody's way elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from dstack_mesh.faults import MeshError, Refused
from dstack_mesh.frozen import frozen
from dstack_scheduler.providers.port import Provider

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "dstack.providers"

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class BrokenProvider:
    """A provider that a package promises and does not bring; `why` is a clause for people."""

    name: str
    package: str
    why: str


@cache
def installed() -> Mapping[str, Provider | BrokenProvider]:
    """What packages of this Python bring, by name."""
    from importlib.metadata import entry_points  # takes longer than all of a run's own modules

    return read(entry_points(group=GROUP))


def read(points: "Iterable[EntryPoint]") -> Mapping[str, Provider | BrokenProvider]:
    """The providers behind entry points; of two with one name neither counts."""
    found: dict[str, Provider | BrokenProvider] = {}
    for point in points:
        package = point.dist.name if point.dist is not None else "another package"
        if (other := found.get(point.name)) is not None:
            found[point.name] = BrokenProvider(
                point.name, package, f"{_package_of(other)} brings one of that name too"
            )
        else:
            found[point.name] = _loaded(point, package)
    return found


def _loaded(point: "EntryPoint", package: str) -> Provider | BrokenProvider:
    try:
        provider = point.load()
    except Exception as error:  # it is not our code
        return BrokenProvider(point.name, package, f"{type(error).__name__}: {error}")
    if not isinstance(provider, Provider):
        return BrokenProvider(point.name, package, f"{point.value} is no Provider")
    if provider.name != point.name:
        return BrokenProvider(point.name, package, f"it calls itself {provider.name}")
    keys = {
        spelling: key._replace(read=_guarded(key.read, point.name, package))
        for spelling, key in provider.keys.items()
    }
    jobs = _guarded(provider.jobs, point.name, package)
    return replace(provider, keys=keys, jobs=jobs, package=package)


def _guarded(work: Callable[P, T], name: str, package: str) -> Callable[P, T]:
    """The same; what goes wrong in it is said to be the package's trouble."""

    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return work(*args, **kwargs)
        except MeshError:
            raise
        except Exception as error:
            raise Refused(
                f'The provider "{name}" of the package {package} failed.',
                f"{type(error).__name__}: {error}",
                f"tell the authors of {package}, or use another provider",
                code="provider-failed",
            ) from error

    return guarded


def _package_of(other: Provider | BrokenProvider) -> str:
    return other.package
