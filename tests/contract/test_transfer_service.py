"""Trees move between two peers over mutual TLS, whole or not at all."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import FileEntry, Manifest
from dstack_mesh.chunks.tree import lay_tree, save_tree
from dstack_mesh.faults import Busy, Damaged, Missing, Unreachable
from support.two_stores import MIB, Two, noise, same


def void(_: object) -> None:
    """Forgets a result."""


async def test_only_what_is_missing_is_sent(two: Two) -> None:
    root = two.tree("in", {"a": noise(5 * MIB), "b/c": b"small", "d": b""})
    saved = save_tree(two.ours, root)
    assert await two.client.send_tree(saved.digest) == 5 * MIB + 5
    assert await two.client.send_tree(saved.digest) == 0
    (root / "e").write_bytes(b"more")
    assert await two.client.send_tree(save_tree(two.ours, root).digest) == 4
    lay_tree(two.theirs, saved.digest, two.folder / "out")
    (root / "e").unlink()
    assert same(root, two.folder / "out")


async def test_only_what_is_missing_is_fetched(two: Two) -> None:
    root = two.tree("in", {"a": noise(3 * MIB), "b": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    save_tree(two.ours, two.tree("part", {"b": noise(MIB, 2)}))
    assert await two.client.fetch_tree(saved.digest) == 3 * MIB
    assert await two.client.fetch_tree(saved.digest) == 0
    lay_tree(two.ours, saved.digest, two.folder / "out")
    assert same(root, two.folder / "out")


async def test_what_lies_at_the_target_is_not_fetched_again(two: Two) -> None:
    root = two.tree("in", {"a": noise(3 * MIB), "b/c": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    told: list[int] = []
    first = await two.client.fetch_into(saved.digest, two.folder / "out")
    again = await two.client.fetch_into(saved.digest, two.folder / "out", on_bytes=told.append)
    assert (first.received_bytes, again.received_bytes) == (4 * MIB, 0)
    assert (again.files, again.size_bytes, sum(told)) == (2, 4 * MIB, 4 * MIB)
    assert (first.here_bytes, again.here_bytes) == (0, 4 * MIB)
    (two.folder / "out" / "b" / "c").write_bytes(b"mine")
    assert (await two.client.fetch_into(saved.digest, two.folder / "out")).received_bytes == MIB
    assert same(root, two.folder / "out")


async def test_holes_neither_travel_nor_were_they_here(two: Two) -> None:
    root = two.tree("in", {"a": noise(MIB)})
    os.truncate(root / "a", 64 * MIB)
    saved = save_tree(two.theirs, root)
    fetched = await two.client.fetch_into(saved.digest, two.folder / "out")
    assert (fetched.size_bytes, fetched.here_bytes) == (64 * MIB, 0)
    assert MIB <= fetched.received_bytes < 2 * MIB
    assert same(root, two.folder / "out")


async def test_what_an_older_version_has_does_not_travel_again(two: Two) -> None:
    before = noise(40 * MIB)
    root = two.tree("in", {"a": before})
    await two.client.fetch_into(save_tree(two.theirs, root).digest, two.folder / "out")
    (root / "a").write_bytes(b"in front" + before[: 20 * MIB] + noise(MIB, 2) + before[21 * MIB :])
    told: list[int] = []
    changed = await two.client.fetch_into(
        save_tree(two.theirs, root).digest, two.folder / "out", on_bytes=told.append
    )
    assert changed.received_bytes < MIB + 300_000
    assert sum(told) == changed.size_bytes
    assert same(root, two.folder / "out")


async def test_a_tree_without_content_moves_as_well(two: Two) -> None:
    empty = two.ours.put_manifest(Manifest([FileEntry("a")]).encode())
    assert await two.client.send_tree(empty) == 0
    assert not two.theirs.missing_manifest(empty)


async def test_a_large_list_of_files_moves_in_pieces(two: Two) -> None:
    many = Manifest(FileEntry(f"{'x' * 200}/{n}") for n in range(12_000))
    assert len(many.encode()) > 2 * MIB
    await two.client.send_tree(two.ours.put_manifest(many.encode()))
    assert two.theirs.get_manifest(many.digest).entries == many.entries
    other = Manifest(FileEntry(f"{'y' * 200}/{n}") for n in range(12_000))
    await two.client.fetch_tree(two.theirs.put_manifest(other.encode()))
    assert two.ours.get_manifest(other.digest).entries == other.entries


async def test_files_are_fetched_straight_into_place(two: Two) -> None:
    files = {
        "model/a.bin": noise(4 * MIB),
        "model/again.bin": noise(4 * MIB),
        "model/zeros": bytes(3 * MIB),
        "model/deep/b": b"b",
        "log": b"l" * 50_000,
        "none": b"",
    }
    root = two.tree("in", files)
    (root / "model" / "link").symlink_to("a.bin")
    (root / "run").write_text("#!")
    (root / "run").chmod(0o755)
    (root / "hollow").mkdir()
    saved = save_tree(two.theirs, root)
    heard: list[int] = []
    fetched = await two.client.fetch_into(saved.digest, two.folder / "out", on_bytes=heard.append)
    assert same(root, two.folder / "out")
    assert (two.folder / "out" / "model" / "link").readlink() == Path("a.bin")
    assert os.access(two.folder / "out" / "run", os.X_OK)
    assert (fetched.files, fetched.size_bytes) == (saved.files, saved.size_bytes)
    # What is used twice travels once, zeros never do, and nothing went through our store.
    assert fetched.received_bytes + 3 * MIB == sum(heard) < 8 * MIB
    assert two.ours.missing([digest_of(b"b")]) == [digest_of(b"b")]


async def test_a_part_of_a_tree_can_be_fetched(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"m/a": b"1", "m/d/b": b"2", "other": b"3"}))
    out = two.folder / "out"
    assert (await two.client.fetch_into(saved.digest, out, "m/")).files == 2
    assert {path.name for path in out.rglob("*")} == {"a", "d", "b"}
    into = await two.client.fetch_into(saved.digest, out, "m/d/b")
    assert into.path == out / "b"
    named = await two.client.fetch_into(saved.digest, out / "new name", "other")
    assert named.path.read_bytes() == b"3"
    with pytest.raises(Missing):
        await two.client.fetch_into(saved.digest, out, "m/x")


async def test_what_we_have_already_does_not_travel_into_files(two: Two) -> None:
    root = two.tree("in", {"a": noise(2 * MIB), "b": noise(MIB, 2)})
    saved = save_tree(two.theirs, root)
    save_tree(two.ours, two.tree("part", {"a": noise(2 * MIB)}))
    fetched = await two.client.fetch_into(saved.digest, two.folder / "out")
    assert same(root, two.folder / "out")
    assert (fetched.received_bytes, fetched.size_bytes) == (MIB, 3 * MIB)


async def test_what_nobody_has_is_missing(two: Two) -> None:
    nothing = digest_of(b"nothing")
    with pytest.raises(Missing):
        await two.client.send_tree(nothing)
    with pytest.raises(Missing):
        await two.client.fetch_tree(nothing)
    with pytest.raises(Missing):
        await two.client.fetch_into(nothing, two.folder / "out")


async def test_a_damaged_chunk_is_not_served(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(4 * MIB)}))
    [pack] = (two.theirs.folder / "packs").iterdir()
    with pack.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"wrong")
    out = two.folder / "out"
    with pytest.raises(Damaged):
        await two.client.fetch_into(saved.digest, out)
    assert list(out.iterdir()) == []
    with pytest.raises(Missing):
        await two.client.fetch_tree(saved.digest)
    save_tree(two.ours, two.folder / "in")
    assert len(two.theirs.missing(two.ours.get_manifest(saved.digest).chunk_digests())) == 1


async def test_a_server_that_goes_away_leaves_no_half_files(two: Two) -> None:
    root = two.tree("in", {"a": noise(40 * MIB)})
    saved = save_tree(two.theirs, root)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(_: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    out = two.folder / "out"
    fetching = asyncio.create_task(two.client.fetch_into(saved.digest, out, on_bytes=told))
    await begun.wait()
    await two.server.stop(None)
    with pytest.raises(Unreachable):
        await fetching
    assert list(out.iterdir()) == []


async def test_a_fetch_that_is_cancelled_leaves_no_half_files(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(40 * MIB)}))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    out = two.folder / "out"
    fetching = asyncio.create_task(
        two.client.fetch_into(
            saved.digest, out, on_bytes=lambda _: void(loop.call_soon_threadsafe(begun.set))
        )
    )
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert list(out.iterdir()) == []
    assert (await two.client.fetch_into(saved.digest, out)).files == 1


@pytest.mark.parametrize("sizes", [(40,), (2,) * 20, (1, 40)])
async def test_a_fetch_that_broke_off_goes_on_where_it_was(two: Two, sizes: Sequence[int]) -> None:
    files = {f"f{number:02}": noise(mib * MIB, number) for number, mib in enumerate(sizes)}
    saved = save_tree(two.theirs, two.tree("in", files))
    half = asyncio.Event()
    loop, out = asyncio.get_running_loop(), two.folder / "out"
    written = 0

    def told(count: int) -> None:
        nonlocal written
        written += count
        if written > 10 * MIB:
            loop.call_soon_threadsafe(half.set)

    fetching = asyncio.create_task(two.client.fetch_into(saved.digest, out, on_bytes=told))
    await half.wait()
    fetching.cancel()
    await asyncio.wait([fetching])
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    assert whole.items() <= files.items() and len(whole) < len(files)
    fetched = await two.client.fetch_into(saved.digest, out)
    assert fetched.received_bytes + written <= sum(sizes) * MIB + MIB
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


async def test_a_fetch_that_finds_the_disk_full_says_so_and_leaves_nothing_half(two: Two) -> None:
    saved = save_tree(two.theirs, two.tree("in", {"a": noise(4 * MIB), "b": noise(4 * MIB, 2)}))
    out = two.folder / "out"

    def told(_: int) -> None:
        raise Busy("The disk is full.")

    with pytest.raises(Busy, match="disk is full"):
        await two.client.fetch_into(saved.digest, out, on_bytes=told)
    assert {path.name for path in out.iterdir()} <= {"a"}
