"""The chunk store of somebody in tests, whole trees at a time."""

from dstack_mesh.ids import Digest


class FakeStore:
    """A chunk store of which only the names of its trees matter."""

    def __init__(self, *trees: Digest) -> None:
        self.trees = set(trees)
        self.files: dict[tuple[Digest, str], bytes] = {}

    def missing_manifest(self, digest: Digest) -> bool:
        return digest not in self.trees

    def keep(self, digest: Digest, owner: str) -> None:
        assert digest in self.trees, owner

    def read_file(self, digest: Digest, path: str, limit_bytes: int) -> bytes:
        assert digest in self.trees, path
        return self.files[digest, path]
