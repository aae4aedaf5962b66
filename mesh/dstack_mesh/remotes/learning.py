"""Learns which chunks a remote has: reads the indexes that this home has not read before."""

from collections.abc import Iterable

from dstack_mesh.ids import Digest
from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.naming import INDEXES, PACKS, index_key, name_in
from dstack_mesh.remotes.packs import PackIndex
from dstack_mesh.remotes.port import ObjectStore, Stored


def learn(objects: ObjectStore, known: Known, crew: Crew) -> None:
    """Reads the indexes that were not read before, and forgets those that are gone."""

    def read(name: Digest) -> tuple[Digest, PackIndex]:
        return name, PackIndex.decode(name, objects.get(index_key(name)))

    there = set(_by_name(objects.listing(INDEXES)))
    before = set(known.packs())
    known.forget(before - there)
    for name, index in crew.each(read, sorted(there - before)):
        known.learn(name, index)


def packs_there(objects: ObjectStore) -> dict[Digest, int]:
    """The packs of a remote and their sizes."""
    return _by_name(objects.listing(PACKS))


def _by_name(found: Iterable[Stored]) -> dict[Digest, int]:
    named = ((name_in(one.key), one.size_bytes) for one in found)
    return {name: size for name, size in named if name is not None}
