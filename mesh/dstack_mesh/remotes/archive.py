"""A remote as commands use it: trees go there and come back, records are said and heard."""

import os
from collections.abc import Mapping

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.crew import Crew
from dstack_mesh.remotes.fetching import Fetcher
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.port import ObjectStore
from dstack_mesh.remotes.records import Records
from dstack_mesh.remotes.sending import Sender


class Archive:
    """One remote, with what this home knows of it and the home's own store.

    Everything blocks; for one thread at a time, which is not the one of an event loop.
    """

    def __init__(self, objects: ObjectStore, known: Known, store: ChunkStore) -> None:
        self._crew = Crew()
        self.where = objects.where
        self.records = Records(objects, known, self._crew)
        self.sender = Sender(objects, known, store, self._crew)
        self.fetcher = Fetcher(objects, known, store, self._crew)

    def close(self) -> None:
        """Lets go of the threads; transfers that go on end with an error."""
        self._crew.close()


def known_of(home: Home, place: Bucket, environ: Mapping[str, str] = os.environ) -> Known:
    """What a home has read of a place before.

    A wrong file would only be of no use: nothing in it counts that the place does not list.
    """
    endpoint = (
        place.endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL", "")
    )
    name = digest_of(f"{place.url} {endpoint}".encode()).hex()[:32]
    return Known(home.state / "remotes" / f"{name}.sqlite")
