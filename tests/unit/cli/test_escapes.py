"""What of a job's output reaches a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.output.escapes import EscapeFilter

CORPUS: list[tuple[str, bytes, bytes]] = [
    ("plain text", b"epoch 1/20 loss 0.412\n", b"epoch 1/20 loss 0.412\n"),
    ("a progress bar", b"10%\r 20%\r", b"10%\r 20%\r"),
    ("tab and backspace", b"a\tb\x08c", b"a\tb\x08c"),
    ("a colour", b"\x1b[31mred\x1b[0m", b"\x1b[31mred\x1b[0m"),
    ("a 256 colour", b"\x1b[38;5;196mx\x1b[m", b"\x1b[38;5;196mx\x1b[m"),
    ("a true colour with colons", b"\x1b[38:2::1:2:3mx\x1b[0m", b"\x1b[38:2::1:2:3mx\x1b[0m"),
    ("cursor up and erase", b"\x1b[2A\x1b[2Kover", b"over"),
    ("clear the screen", b"\x1b[2J\x1b[Hgone", b"gone"),
    ("a private mode", b"\x1b[?1049hx\x1b[?25l", b"x"),
    ("xterm's key modifiers end in m", b"\x1b[>4;2mx", b"x"),
    ("a title ended by BEL", b"\x1b]0;owned\x07x", b"x"),
    ("a title ended by ST", b"\x1b]0;owned\x1b\\x", b"x"),
    ("a clipboard write", b"\x1b]52;c;cm0gLXJm\x07x", b"x"),
    ("a link", b"\x1b]8;;http://a\x1b\\text\x1b]8;;\x1b\\", b"text"),
    ("a device control string", b'\x1bP$q"p\x1b\\x', b"x"),
    ("an application command", b"\x1b_Gf=32;AAAA\x1b\\x", b"x"),
    ("a report request", b"\x1b[6nx\x1b[c", b"x"),
    ("reset to initial state", b"\x1bcx", b"x"),
    ("a character set", b"\x1b(0x", b"x"),
    ("C1 introducer in UTF-8", b"\xc2\x9b2Jx", b"x"),
    ("C1 string in UTF-8", b"\xc2\x9d0;t\xc2\x9cx", b"x"),
    ("a bell and a null", b"a\x07\x00b", b"ab"),
    ("shift out", b"a\x0eb\x0f", b"ab"),
    ("delete", b"a\x7fb", b"ab"),
    ("a string that another escape ends", b"\x1b]0;t\x1b[31mred\x1b[0m", b"\x1b[31mred\x1b[0m"),
    ("a cancelled string", b"\x1b]0;t\x18x", b"x"),
    ("an unfinished sequence", b"x\x1b[31", b"x"),
    ("a malformed sequence", b"\x1b[31\nx", b"31\nx"),
    ("two escapes", b"\x1b\x1b[2Jx", b"x"),
    ("umlauts and CJK", "grün 訓練".encode(), "grün 訓練".encode()),
    ("bytes that are no UTF-8", b"a\xffb", "a\ufffdb".encode()),
]


@pytest.mark.parametrize(("sent", "shown"), [row[1:] for row in CORPUS], ids=[r[0] for r in CORPUS])
def test_only_text_and_colours_reach_the_terminal(sent: bytes, shown: bytes) -> None:
    assert EscapeFilter().feed(sent) == shown


@pytest.mark.parametrize(("sent", "shown"), [row[1:] for row in CORPUS], ids=[r[0] for r in CORPUS])
def test_where_frames_are_cut_never_changes_what_is_shown(sent: bytes, shown: bytes) -> None:
    for at in range(len(sent) + 1):
        stripped = EscapeFilter()
        assert stripped.feed(sent[:at]) + stripped.feed(sent[at:]) == shown


@given(st.lists(st.sampled_from([row[1] for row in CORPUS]) | st.binary(max_size=6), max_size=8))
def test_no_sequence_but_colours_survives_any_mixture(pieces: list[bytes]) -> None:
    import re

    stripped = EscapeFilter()
    shown = b"".join(stripped.feed(piece) for piece in pieces) + stripped.finish()
    rest = re.sub(rb"\x1b\[[0-9;:]*m", b"", shown)
    assert b"\x1b" not in rest
    assert not re.search("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]", rest.decode())


@given(st.binary(max_size=60), st.data())
def test_any_bytes_come_out_the_same_however_they_are_cut(sent: bytes, data: st.DataObject) -> None:
    whole = EscapeFilter()
    expected = whole.feed(sent) + whole.finish()
    cut = EscapeFilter()
    at = data.draw(st.integers(0, len(sent)))
    assert cut.feed(sent[:at]) + cut.feed(sent[at:]) + cut.finish() == expected


def test_a_colour_left_on_is_put_off_at_the_end() -> None:
    stripped = EscapeFilter()
    stripped.feed(b"\x1b[1;31mred")
    assert stripped.finish() == b"\x1b[0m"


def test_colours_go_where_none_are_wanted() -> None:
    assert EscapeFilter(keep_colour=False).feed(b"\x1b[31mred\x1b[0m") == b"red"


def test_an_endless_sequence_is_not_kept_for_ever() -> None:
    stripped = EscapeFilter()
    for _ in range(1000):
        stripped.feed(b"\x1b[" + b"1" * 100)
    assert stripped.feed(b"mx").endswith(b"x")
