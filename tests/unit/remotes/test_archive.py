"""Trees that were sent come back, only what is missing travels, and nothing is ever half there."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Damaged, Missing, Refused, Unreachable
from dstack_mesh.ids import Digest
from dstack_mesh.remotes.archive import Archive
from dstack_mesh.remotes.known import Known
from dstack_mesh.remotes.packs import LEAST_BYTES
from dstack_mesh.remotes.tally import GivenUp, Tally
from support.memory_objects import MemoryObjects


class People:
    """Homes that share one remote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.objects = MemoryObjects()
        self.stores: dict[str, ChunkStore] = {}
        self._archives: list[Archive] = []

    def archive(self, name: str) -> Archive:
        if name not in self.stores:
            self.stores[name] = ChunkStore(self._folder / name / "chunks")
        known = Known(self._folder / name / "known.sqlite")
        archive = Archive(self.objects, known, self.stores[name])
        self._archives.append(archive)
        return archive

    def send(self, name: str, digest: Digest, again: bool = False) -> Tally:
        archive, tally = self.archive(name), Tally()
        archive.sender.begin()
        archive.sender.send_tree(digest, tally, again)
        return tally

    def close(self) -> None:
        for archive in self._archives:
            archive.close()
        for store in self.stores.values():
            store.close()


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    made = People(tmp_path)
    yield made
    made.close()


def folder_of(where: Path, seed: int = 1, large: int = 3 * LEAST_BYTES) -> Path:
    dice = random.Random(seed)
    (where / "deep").mkdir(parents=True)
    (where / "model").write_bytes(dice.randbytes(large))
    (where / "deep" / "small").write_bytes(b"small")
    (where / "empty").touch()
    (where / "link").symlink_to("deep/small")
    (where / "run").write_bytes(b"#!/bin/sh\n")
    (where / "run").chmod(0o755)
    return where


def files_in(folder: Path) -> dict[str, bytes]:
    found = {str(one.relative_to(folder)): one for one in sorted(folder.rglob("*"))}
    return {name: one.read_bytes() for name, one in found.items() if one.is_file()}


def size_of(folder: Path) -> int:
    files = [one for one in folder.rglob("*") if one.is_file() and not one.is_symlink()]
    return sum(one.stat().st_size for one in files)


def saved(people: People, name: str, folder: Path) -> Digest:
    people.archive(name)
    return save_tree(people.stores[name], folder).digest


def test_what_one_sent_another_fetches(people: People, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "work")
    digest = saved(people, "ana", folder)
    tally = people.send("ana", digest)
    assert tally.moved_bytes == tally.total_bytes > 3 * LEAST_BYTES
    bea = people.archive("bea")
    there = Tally()
    assert bea.fetcher.fetch_tree(digest, there) == there.moved_bytes == tally.total_bytes
    lay_tree(people.stores["bea"], digest, tmp_path / "laid")
    assert files_in(tmp_path / "laid") == files_in(folder)
    assert (tmp_path / "laid" / "link").readlink() == Path("deep/small")
    assert bea.fetcher.fetch_tree(digest, Tally()) == 0


def test_files_are_written_without_a_store_of_their_bytes(people: People, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "work")
    people.send("ana", digest := saved(people, "ana", folder))
    told: list[int] = []
    fetcher = people.archive("bea").fetcher
    fetched = fetcher.fetch_into(digest, tmp_path / "out", "", told.append, Tally())
    assert files_in(tmp_path / "out") == files_in(folder)
    assert fetched.received_bytes == sum(told)
    assert people.stores["bea"].missing_manifest(digest)
    one = fetcher.fetch_into(digest, tmp_path / "one", "deep/small", told.append, Tally())
    assert one.path.read_bytes() == b"small"


def test_files_that_break_off_need_not_come_again(people: People, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "work", large=24 << 20)
    people.send("ana", digest := saved(people, "ana", folder))
    size = size_of(folder)
    out, seen = tmp_path / "out", [0]

    def break_off(written: int) -> None:
        seen[0] += written
        if seen[0] > size / 2:
            raise Unreachable("The network is gone.")

    with pytest.raises(Unreachable):
        people.archive("bea").fetcher.fetch_into(digest, out, "", break_off, Tally())
    assert not (out / "model").exists()
    told: list[int] = []
    again = people.archive("bea").fetcher.fetch_into(digest, out, "", told.append, Tally())
    assert again.received_bytes < size / 2
    assert sum(told) == size
    assert files_in(out) == files_in(folder)


def test_files_of_a_command_that_is_killed_need_not_come_again(
    people: People, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "work", large=24 << 20)
    people.send("ana", digest := saved(people, "ana", folder))
    size = size_of(folder)
    out = tmp_path / "out"
    if (child := os.fork()) == 0:
        seen = [0]

        def die(written: int) -> None:
            seen[0] += written
            if seen[0] > size / 2:
                os.kill(os.getpid(), signal.SIGKILL)

        people.archive("bea").fetcher.fetch_into(digest, out, "", die, Tally())
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (out / "model").exists()
    told: list[int] = []
    again = people.archive("bea").fetcher.fetch_into(digest, out, "", told.append, Tally())
    assert again.received_bytes < size / 2 + (5 << 20)
    assert sum(told) == size
    assert files_in(out) == files_in(folder)


def test_only_packs_with_missing_chunks_are_sent(people: People, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "work")
    people.send("ana", saved(people, "ana", folder))
    people.objects.asked.clear()
    again = people.send("ana", saved(people, "ana", folder))
    assert (again.moved_bytes, again.there_bytes) == (0, again.total_bytes)
    with (folder / "model").open("ab") as model:
        model.write(random.Random(9).randbytes(100_000))
    more = people.send("bea", saved(people, "bea", folder))
    assert 100_000 <= more.moved_bytes <= 300_000
    assert more.there_bytes + more.moved_bytes == more.total_bytes


def test_wherever_a_push_breaks_off_nothing_is_half_there_and_it_goes_on(
    people: People, tmp_path: Path
) -> None:
    """The sender dies before each of its operations in turn; after each a stranger reads all."""
    digest = saved(people, "ana", folder_of(tmp_path / "work"))
    operation = 0
    while True:
        operation += 1
        seen = [0]

        def dies(name: str, key: str, last: int = operation, seen: list[int] = seen) -> None:
            seen[0] += 1
            if seen[0] >= last:
                raise Unreachable("killed")

        people.objects.before = dies
        tally = Tally()
        archive = people.archive("ana")
        try:
            archive.sender.begin()
            archive.sender.send_tree(digest, tally)
            archive.records.add("runs", "run", b"record")
            ended = True
        except Unreachable:
            ended = False
        people.objects.before = lambda name, key: None
        _reads_all_or_nothing(people, digest, operation)
        if ended:
            break
    assert operation > 10
    keys = people.objects.objects
    assert sum(len(keys[key]) for key in keys if key.startswith("packs/")) == tally.total_bytes


def _reads_all_or_nothing(people: People, digest: Digest, number: int) -> None:
    keys = people.objects.objects
    stranger = people.archive(f"stranger-{number}")
    has_record = any(key.startswith("records/") for key in keys)
    has_manifest = any(key.startswith("manifests/") for key in keys)
    assert has_manifest or not has_record
    if has_manifest:
        stranger.fetcher.fetch_tree(digest, Tally())
    else:
        with pytest.raises(Missing):
            stranger.fetcher.fetch_tree(digest, Tally())
    for key in keys:
        if key.startswith("indexes/"):
            assert key.replace("indexes/", "packs/") in keys


def test_a_reader_of_half_a_tree_would_be_seen(people: People, tmp_path: Path) -> None:
    """The negative control of the test above: a manifest that comes before its packs."""
    digest = saved(people, "ana", folder_of(tmp_path / "work"))
    key = f"manifests/{digest.hex()}"
    people.objects.objects[key] = people.stores["ana"].get_encoded(digest)
    with pytest.raises(Damaged):
        _reads_all_or_nothing(people, digest, 1)


@pytest.mark.parametrize("harm", ["missing", "flipped", "short"])
def test_a_pack_that_is_missing_or_damaged_is_named_and_can_be_repaired(
    people: People, tmp_path: Path, harm: str
) -> None:
    folder = folder_of(tmp_path / "work")
    people.send("ana", digest := saved(people, "ana", folder))
    packs = [key for key in people.objects.objects if key.startswith("packs/")]
    key = random.Random(4).choice(packs)
    content = people.objects.objects[key]
    match harm:
        case "missing":
            del people.objects.objects[key]
        case "flipped":
            at = len(content) // 3
            flipped = bytes([content[at] ^ 8])
            people.objects.objects[key] = content[:at] + flipped + content[at + 1 :]
        case _:
            people.objects.objects[key] = content[:-5]
    with pytest.raises(Damaged) as told:
        people.archive("bea").fetcher.fetch_tree(digest, Tally())
    assert told.value.code == "remote-damaged"
    assert key in told.value.why
    people.send("ana", digest, again=harm == "flipped")
    people.archive("bea").fetcher.fetch_tree(digest, Tally())
    lay_tree(people.stores["bea"], digest, tmp_path / "laid")
    assert files_in(tmp_path / "laid") == files_in(folder)


def test_every_flipped_bit_of_a_remote_is_seen_and_none_is_kept(
    people: People, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "work", large=200_000)
    people.send("ana", digest := saved(people, "ana", folder))
    dice = random.Random(5)
    whole = dict(people.objects.objects)
    for number in range(60):
        key = dice.choice([key for key in whole if not key.startswith("format")])
        content = bytearray(whole[key])
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        people.objects.objects = {**whole, key: bytes(content)}
        with pytest.raises(Damaged):
            people.archive(f"bea-{number}").fetcher.fetch_tree(digest, Tally())


def test_a_remote_that_ignores_conditional_writes_is_refused(people: People) -> None:
    people.objects.conditional = False
    with pytest.raises(Refused) as refused:
        people.archive("ana").sender.begin()
    assert refused.value.code == "no-conditional-writes"
    assert not [key for key in people.objects.objects if key.startswith("packs/")]


def test_a_folder_with_something_else_in_it_is_refused(people: People) -> None:
    people.objects.put("format", b"dstack-remote-2\n")
    with pytest.raises(Refused) as refused:
        people.archive("ana").sender.begin()
    assert refused.value.code == "remote-format"


def test_records_are_the_same_for_everybody_and_stay_as_they_are(people: People) -> None:
    ana, bea = people.archive("ana"), people.archive("bea")
    assert ana.records.add("runs", "01-run", b"first")
    assert not ana.records.add("runs", "01-run", b"first")
    assert bea.records.add("runs", "01-run", b"more is known")
    people.objects.put("records/runs/some other file", b"x")
    people.objects.put(f"records/runs/01-run.{'0' * 32}", b"changed by somebody")
    for archive in (ana, bea):
        archive.records.hear("runs")
        assert sorted(archive.records.heard("runs")) == [b"first", b"more is known"]
    people.objects.objects = {}
    ana.records.hear("runs")
    assert ana.records.heard("runs") == []


def test_a_transfer_that_nobody_wants_any_more_ends(people: People, tmp_path: Path) -> None:
    digest = saved(people, "ana", folder_of(tmp_path / "work"))
    archive, tally = people.archive("ana"), Tally()
    archive.sender.begin()
    people.objects.before = lambda name, key: tally.give_up() if name == "part" else None
    with pytest.raises(GivenUp):
        archive.sender.send_tree(digest, tally)
    assert not any(key.startswith("manifests/") for key in people.objects.objects)


def test_a_damaged_file_of_what_is_known_is_made_anew(people: People, tmp_path: Path) -> None:
    people.send("ana", digest := saved(people, "ana", folder_of(tmp_path / "work")))
    people.archive("bea").fetcher.fetch_tree(digest, Tally())
    (tmp_path / "bea" / "known.sqlite").write_bytes(b"no database at all" * 100)
    people.stores["cleo"] = ChunkStore(tmp_path / "cleo" / "chunks")
    known = Known(tmp_path / "bea" / "known.sqlite")
    archive = Archive(people.objects, known, people.stores["cleo"])
    assert archive.fetcher.fetch_tree(digest, Tally()) > 0
    archive.close()
