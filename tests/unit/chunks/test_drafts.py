"""Who was killed while it brought files goes on, with all but a megabyte of what was verified."""

import mmap
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_mesh.chunks.drafts import Drafts, draft_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.receiving import Receiver
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import save_tree
from dstack_mesh.ids import Digest
from support.rounds import rounds, seeded

MIB = 1 << 20
PACK_BYTES = 2 * MIB
"""As packs come over the wire."""


@dataclass
class Lab:
    """A store that has a tree, one that remembers what was laid, and where it is laid."""

    theirs: ChunkStore
    ours: ChunkStore
    source: Path
    target: Path
    journals: Drafts | None

    def save(self, **files: bytes) -> Manifest:
        self.source.mkdir(exist_ok=True)
        for name, data in files.items():
            (self.source / name).write_bytes(data)
        return self.theirs.get_manifest(save_tree(self.theirs, self.source).digest)

    def receiver(self, manifest: Manifest) -> Receiver:
        return Receiver(manifest, self.target, "", self.ours.cache, self.journals)

    def packs(self, wanted: Sequence[Digest]) -> Iterator[tuple[list[Digest], memoryview]]:
        """What would come over the wire."""
        digests: list[Digest] = []
        data = bytearray()
        for digest, chunk in self.theirs.read(wanted):
            digests.append(digest)
            data += chunk
            if len(data) >= PACK_BYTES:
                yield digests, memoryview(bytes(data))
                digests, data = [], bytearray()
        if digests:
            yield digests, memoryview(bytes(data))

    def bring(self, manifest: Manifest, told: Callable[[int], None] = lambda _: None) -> int:
        """To its end; how many bytes others had to bring."""
        receiver = self.receiver(manifest)
        try:
            receiver.reuse(lambda _: None)
            wanted = receiver.wanted
            brought = receiver.wanted_bytes(wanted)
            for digests, data in self.packs(wanted):
                receiver.take(digests, data)
                told(len(data))
            receiver.finish(brought)
        finally:
            receiver.close()
        return brought

    def lacking(self, manifest: Manifest) -> int:
        """How many bytes one that begins now would have others bring, if it is killed as well."""
        answer, question = os.pipe()
        if (child := os.fork()) == 0:
            receiver = self.receiver(manifest)
            receiver.reuse(lambda _: None)
            os.write(question, receiver.wanted_bytes(receiver.wanted).to_bytes(8))
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(question)
        with os.fdopen(answer, "rb") as said:
            return int.from_bytes(said.read())

    def killed(self, manifest: Manifest, after: int, itself: bool = True) -> int | None:
        """kill -9 while it is brought, once so much was taken, by itself or from outside at no
        certain moment; how much was taken, None if all was."""
        taken = mmap.mmap(-1, 8)
        child = os.fork()
        if child == 0:

            def told(count: int) -> None:
                so_far = int.from_bytes(taken[:]) + count
                taken[:] = so_far.to_bytes(8)
                if itself and so_far >= after:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                self.bring(manifest, told)
            finally:
                os._exit(0)
        while not itself and int.from_bytes(taken[:]) < after:
            time.sleep(0.0005)
        if not itself:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return int.from_bytes(taken[:]) if os.WIFSIGNALED(status) else None


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    theirs, ours = ChunkStore(tmp_path / "theirs"), ChunkStore(tmp_path / "ours")
    yield Lab(theirs, ours, tmp_path / "source", tmp_path / "target", ours.drafts)
    theirs.close()
    ours.close()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


TREES = {
    "one large": {"a": noise(48 * MIB)},
    "some": {f"f{number:02}": noise(3 * MIB, number) for number in range(12)},
    "many small": {f"f{number:04}": noise(9_000, number) for number in range(2_000)},
}


@pytest.mark.parametrize("files", TREES.values(), ids=list(TREES))
def test_whenever_it_is_killed_all_but_a_megabyte_of_what_was_verified_stays(
    lab: Lab, files: dict[str, bytes]
) -> None:
    dice = seeded("killed while it brings files")
    manifest = lab.save(**files)
    lacking = sum(map(len, files.values()))
    kills = 0
    while kills < rounds(3):
        taken = lab.killed(manifest, dice.randint(1, lacking), itself=False) if lacking else None
        if taken is None:  # all of it is there
            shutil.rmtree(lab.target)
            lacking = sum(map(len, files.values()))
            continue
        kills += 1
        for path in lab.target.iterdir():
            assert path.name.startswith(".") or path.read_bytes() == files[path.name]
        left = lab.lacking(manifest)
        assert left <= lacking - taken + MIB
        lacking = left
    assert lab.bring(manifest) <= lacking
    assert {path.name: path.read_bytes() for path in lab.target.iterdir()} == files


def test_what_a_kill_takes_would_be_seen(lab: Lab) -> None:
    """The negative control: who does not know of drafts begins anew."""
    manifest = lab.save(a=noise(40 * MIB))
    assert lab.killed(manifest, 20 * MIB)
    lab.journals = None
    assert lab.lacking(manifest) == 40 * MIB


def test_a_failure_after_a_kill_keeps_what_both_brought(lab: Lab) -> None:
    manifest = lab.save(a=noise(20 * MIB))
    assert lab.killed(manifest, 10 * MIB)
    receiver = lab.receiver(manifest)
    receiver.reuse(lambda _: None)
    lab.ours.put(receiver.rescued())
    receiver.close()
    assert list(lab.target.iterdir()) == []
    assert len(lab.ours.missing(manifest.chunk_digests())) * 2 < len(manifest.chunk_digests())


def half(lab: Lab, size: int = 3 * MIB) -> tuple[Manifest, Path]:
    """A tree of one file and the draft that a killed one left of it."""
    manifest = lab.save(a=noise(size))
    assert lab.killed(manifest, size // 2)
    [entry] = [one for one in manifest.entries if isinstance(one, FileEntry)]
    return manifest, lab.target / draft_of(entry)


@pytest.mark.parametrize("kind", ["link", "other name", "writable", "fifo", "folder", "longer"])
def test_what_is_no_draft_of_ours_alone_is_not_written_to(lab: Lab, kind: str) -> None:
    manifest, draft = half(lab, 5 * MIB)
    other = lab.target.parent / "other"
    shutil.move(draft, other)
    match kind:
        case "link":
            draft.symlink_to(other)
        case "other name":
            draft.hardlink_to(other)
        case "writable":
            shutil.copy(other, draft)
            draft.chmod(0o666)
        case "fifo":
            os.mkfifo(draft)
        case "folder":
            draft.mkdir()
        case _:
            draft.write_bytes(bytes(6 * MIB))
    before = other.read_bytes()
    assert lab.bring(manifest) == 5 * MIB
    assert (lab.target / "a").read_bytes() == noise(5 * MIB)
    assert other.read_bytes() == before


def test_wrong_bytes_in_a_draft_are_brought_again(lab: Lab) -> None:
    manifest, draft = half(lab, 5 * MIB)
    with draft.open("r+b") as file:
        file.write(b"wrong")
    assert 0 < lab.bring(manifest) < 5 * MIB
    assert (lab.target / "a").read_bytes() == noise(5 * MIB)


def test_what_is_written_into_a_hole_of_a_draft_is_not_kept(lab: Lab) -> None:
    content = noise(2 * MIB) + bytes(4 * MIB) + noise(2 * MIB, 2)
    manifest = lab.save(a=content)
    assert lab.killed(manifest, MIB)
    [draft] = lab.target.iterdir()
    with draft.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"wrong")
    lab.bring(manifest)
    assert (lab.target / "a").read_bytes() == content


def test_two_that_bring_the_same_at_once_do_not_meet(lab: Lab) -> None:
    manifest = lab.save(a=noise(3 * MIB))
    first = lab.receiver(manifest)
    packs = list(lab.packs(first.wanted))
    first.take(*packs[0])
    assert lab.bring(manifest) == 3 * MIB
    for pack in packs[1:]:
        first.take(*pack)
    first.finish(0)
    first.close()
    assert [path.name for path in lab.target.iterdir()] == ["a"]
    assert (lab.target / "a").read_bytes() == noise(3 * MIB)


def test_a_file_that_lies_there_already_is_not_brought_however_it_came(lab: Lab) -> None:
    manifest = lab.save(a=noise(5_000), b=noise(3 * MIB), c=noise(5_000, 2))
    lab.target.mkdir()
    for name in ("a", "b"):
        shutil.copy(lab.source / name, lab.target / name)
    (lab.target / "c").write_bytes(noise(5_000, 3))
    inode = (lab.target / "b").stat().st_ino
    assert lab.bring(manifest) == 5_000
    assert (lab.target / "b").stat().st_ino == inode
    assert lab.bring(manifest) == 0


def test_what_nobody_goes_on_with_is_removed_after_a_week_and_nothing_else(lab: Lab) -> None:
    manifest, draft = half(lab)
    assert lab.journals is not None
    (lab.target / "of somebody").write_text("stays")
    assert lab.journals.sweep() == 0
    lab.journals.sweep(-1)
    assert [path.name for path in lab.target.iterdir()] == ["of somebody"]
    assert list((lab.ours.folder / "drafts").iterdir()) == []
    assert lab.bring(manifest) == 3 * MIB
    assert lab.journals.sweep(-1) == 0
    # One that goes on now is left alone, whoever named its draft first.
    (lab.target / "a").unlink()
    manifest, draft = half(lab)
    going_on = lab.receiver(manifest)
    going_on.reuse(lambda _: None)
    assert lab.journals.sweep(-1) == 0 and draft.exists()
    going_on.close()


def test_that_it_broke_off_is_known_until_it_is_finished(lab: Lab) -> None:
    assert lab.journals is not None
    other = lab.journals
    lab.journals = other.of(Digest(b"t" * 32))
    manifest, _ = half(lab)
    assert lab.journals.broke_off(lab.target)
    assert not other.broke_off(lab.target)  # of another tree
    assert not lab.journals.broke_off(lab.target / "a")
    lab.bring(manifest)
    assert not lab.journals.broke_off(lab.target)
    assert list((lab.ours.folder / "drafts").iterdir()) == []


def test_a_journal_that_names_what_is_no_draft_removes_nothing(lab: Lab) -> None:
    assert lab.journals is not None
    lab.target.mkdir()
    (lab.target / "precious").write_text("x")
    journal = lab.journals.begin(lab.target, lab.target)
    journal.note("", "precious")
    journal.close()
    assert lab.journals.sweep(-1) == 0
    assert (lab.target / "precious").exists()
