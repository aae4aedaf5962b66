"""Whether the bytes of a run that lie on this machine are those that were signed."""

from blake3 import blake3

from dstack_cli.following import read_now
from dstack_cli.reach import Reach
from dstack_mesh.faults import MeshError
from dstack_mesh.ids import Digest
from dstack_scheduler.job import Fin, JobRecord, LogFrame, LogStream
from dstack_scheduler.progress import Progress
from dstack_scheduler.proving import Fact, Standing, Walked, about


def of_manifests(reach: Reach, walked: Walked) -> list[Fact]:
    """The code, what was laid in and what was kept. Blocks."""
    where, first = about(walked.key), walked.taken
    found = [_manifest(reach, where, "code", "", first.specification.code_digest)]
    found += [_manifest(reach, where, "input", each.path, each.digest) for each in first.inputs]
    for artifact in walked.fin.artifacts if walked.fin is not None else ():
        state = "" if artifact.complete else " (partial)"
        path = f"{artifact.path}{state}, {artifact.files:,} files, {artifact.size_bytes:,} bytes"
        found.append(_manifest(reach, where, "artifact", path, artifact.digest))
    return found


def _manifest(reach: Reach, where: str, what: str, path: str, digest: Digest) -> Fact:
    name = f"{path}: " if path else ""
    if reach.store.missing_manifest(digest):
        return Fact(where, what, Standing.OPEN, f"{name}not held here")
    try:
        reach.store.get_manifest(digest)
    except MeshError as wrong:
        return Fact(where, what, Standing.WRONG, f"{name}{wrong}")
    return Fact(where, what, Standing.PROVED, f"{name}its list of files is what was signed")


async def of_log(reach: Reach, walked: Walked, job: JobRecord | None) -> list[Fact]:
    """The log of an attempt that ended; read here only if this machine ran it.

    Args:
        job: The attempt as its agent tells of it, if the log is on this machine.
    """
    fin, where = walked.fin, about(walked.key)
    if fin is None:
        return []
    size = f"{fin.stdout_bytes + fin.stderr_bytes:,} bytes"
    if job is None:
        return [Fact(where, "log", Standing.OPEN, f"{size}, not held here")]
    log = _Log()
    try:
        await read_now(reach, job, log.saw)
    except MeshError as error:
        return [Fact(where, "log", Standing.OPEN, f"{size}, cannot be read: {error}")]
    if log.lost:
        return [Fact(where, "log", Standing.WRONG, f"{size}, of which {log.lost:,} are lost")]
    if not log.is_of(fin):
        return [Fact(where, "log", Standing.WRONG, f"{size} were signed; others are here")]
    return [Fact(where, "log", Standing.PROVED, f"{size}, what was signed")]


class _Log:
    """Hashes both streams of a log as they come."""

    def __init__(self) -> None:
        self._hashers = {stream: blake3() for stream in LogStream}
        self._lengths = dict.fromkeys(LogStream, 0)
        self.lost = 0

    async def saw(self, event: Progress) -> None:
        if isinstance(event, LogFrame):
            self.lost += event.offset_bytes - self._lengths[event.stream]
            self._hashers[event.stream].update(event.data)
            self._lengths[event.stream] = event.offset_bytes + len(event.data)

    def is_of(self, fin: Fin) -> bool:
        """Whether it is the log of which this is the last word."""
        signed = {
            LogStream.STDOUT: (fin.stdout_bytes, fin.stdout_digest),
            LogStream.STDERR: (fin.stderr_bytes, fin.stderr_digest),
        }
        return all(
            (self._lengths[stream], self._hashers[stream].digest()) == signed[stream]
            for stream in LogStream
        )
