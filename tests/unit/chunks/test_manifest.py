"""A tree has one encoding, and nothing hostile decodes."""

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.chunks.manifest import (
    MAGIC,
    Entry,
    FileEntry,
    FolderEntry,
    LinkEntry,
    Manifest,
)
from dstack_mesh.chunks.paths import path_fault
from dstack_mesh.faults import Invalid
from support.hostile_manifests import HOSTILE, file_bytes, folder_bytes, link_bytes

names = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=8
).filter(lambda name: not path_fault(name))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path = draw(paths)
    match draw(st.sampled_from(["file", "folder", "link"])):
        case "folder":
            return FolderEntry(path)
        case "link":
            return LinkEntry(path, draw(names))
        case _:
            sizes = draw(st.lists(st.integers(1, 1 << 20), max_size=4))
            digests = b"".join(digest_of(struct.pack("<Q", size)) for size in sizes)
            return FileEntry(path, tuple(sizes), digests, draw(st.booleans()))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Trees in which no path is in the way of another."""
    chosen: dict[str, Entry] = {}
    for entry in draw(st.lists(entries(), max_size=12)):
        above = [entry.path.rsplit("/", n)[0] for n in range(entry.path.count("/") + 1)]
        below = any(path.startswith(entry.path + "/") for path in chosen)
        if not below and not any(path in chosen for path in above):
            chosen[entry.path] = entry
    return Manifest(chosen.values())


@given(manifests())
def test_what_is_encoded_decodes_to_the_same(tree: Manifest) -> None:
    decoded = Manifest.decode(tree.encode())
    assert decoded.entries == tree.entries
    assert decoded.encode() == tree.encode()


@given(manifests(), st.randoms())
def test_the_order_of_entries_never_changes_the_digest(tree: Manifest, dice: Random) -> None:
    shuffled = list(tree.entries)
    dice.shuffle(shuffled)
    assert Manifest(shuffled).digest == tree.digest


@given(manifests(), st.data())
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_means_another_tree(
    tree: Manifest, data: st.DataObject
) -> None:
    encoded = bytearray(tree.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = Manifest.decode(bytes(encoded))
    except Invalid:
        return
    assert decoded.encode() == bytes(encoded)
    assert decoded.entries != tree.entries


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_random_bytes_are_refused_or_canonical(noise: bytes) -> None:
    try:
        decoded = Manifest.decode(MAGIC + noise)
    except Invalid:
        return
    assert decoded.encode() == MAGIC + noise


@pytest.mark.parametrize("encoded", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_lists_are_refused(encoded: bytes) -> None:
    with pytest.raises(Invalid):
        Manifest.decode(encoded)


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 300


def test_a_list_like_the_hostile_ones_is_accepted() -> None:
    """The negative control of the corpus: the builder itself makes valid lists."""
    good = (
        MAGIC
        + file_bytes("a/b")
        + folder_bytes("a/c")
        + link_bytes("a/d", "../x/y")
        + file_bytes("b\\:")
    )
    assert [entry.path for entry in Manifest.decode(good).entries] == ["a/b", "a/c", "a/d", "b\\:"]


def test_folders_with_something_in_them_are_left_out() -> None:
    full = Manifest([FolderEntry("a"), FileEntry("a/b"), FolderEntry("c")])
    assert full.digest == Manifest([FileEntry("a/b"), FolderEntry("c")]).digest


def test_counts_say_what_is_in_the_tree() -> None:
    digest = digest_of(b"x")
    tree = Manifest(
        [FileEntry("a", (1, 1), digest * 2), FileEntry("b", (1,), digest), LinkEntry("c", "a")]
    )
    assert (tree.files, tree.size_bytes, tree.chunk_digests()) == (2, 3, [digest])


def test_one_chunk_with_two_sizes_is_refused() -> None:
    digest = digest_of(b"x")
    tree = Manifest([FileEntry("a", (1,), digest), FileEntry("b", (2,), digest)])
    with pytest.raises(Invalid, match="two sizes"):
        tree.chunk_sizes()
