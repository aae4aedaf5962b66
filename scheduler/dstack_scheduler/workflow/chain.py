"""The order of jobs: what a workflow depends on comes before it, each workflow once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dstack_scheduler.workflow.model import Dependency

Links = Mapping[str, Sequence[Dependency]]
"""What each workflow runs before itself. Names that are no key have no links."""


class Cycle(NamedTuple):
    """Workflows that wait for each other; `closing` is the dependency that closes the circle."""

    closing: Dependency
    names: tuple[str, ...]


def ancestors_first(target: str, links: Links) -> tuple[str, ...]:
    """The target and all that it depends on, each once, dependencies first, in declared order."""
    return tuple(step for step in _walk(target, links, set()) if isinstance(step, str))


def cycles(links: Links) -> tuple[Cycle, ...]:
    """Every cycle once."""
    done: set[str] = set()
    return tuple(
        step for name in links for step in _walk(name, links, done) if isinstance(step, Cycle)
    )


def ancestors(order: Sequence[str], links: Links) -> dict[str, tuple[str, ...]]:
    """For each workflow of an order all that it depends on, ancestors of ancestors first."""
    found: dict[str, tuple[str, ...]] = {}
    for name in order:
        mine: dict[str, None] = {}
        for link in links.get(name, ()):
            mine.update(dict.fromkeys((*found.get(link.workflow, ()), link.workflow)))
        found[name] = tuple(mine)
    return found


def _walk(start: str, links: Links, done: set[str]) -> Iterator[str | Cycle]:
    """Depth first without recursion: a file may hold a chain longer than Python's stack."""
    if start in done:
        return
    path: dict[str, Iterator[Dependency]] = {start: iter(links.get(start, ()))}
    while path:
        name = next(reversed(path))
        link = next(path[name], None)
        if link is None:
            del path[name]
            done.add(name)
            yield name
        elif link.workflow in path:
            names = tuple(path)
            yield Cycle(link, (*names[names.index(link.workflow) :], link.workflow))
        elif link.workflow not in done:
            path[link.workflow] = iter(links.get(link.workflow, ()))
