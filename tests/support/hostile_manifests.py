"""Lists of files that nobody may accept, by what is wrong with them."""

import struct

from dstack_mesh.chunks.manifest import MAGIC


def file_bytes(path: str | bytes, kind: int = 0, sizes: tuple[int, ...] = (1,)) -> bytes:
    """A file's entry as it is encoded, whatever its path."""
    digests = b"\x07" * 32 * len(sizes)
    return _head(kind, path) + struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes) + digests


def link_bytes(path: str | bytes, target: str | bytes) -> bytes:
    """A link's entry."""
    raw = target.encode() if isinstance(target, str) else target
    return _head(2, path) + struct.pack("<H", len(raw)) + raw


def folder_bytes(path: str | bytes) -> bytes:
    """An empty folder's entry."""
    return _head(3, path)


def _head(kind: int, path: str | bytes) -> bytes:
    raw = path.encode() if isinstance(path, str) else path
    return struct.pack("<BH", kind, len(raw)) + raw


_PATHS: dict[str, str | bytes] = {
    "empty": "",
    "root": "/",
    "absolute": "/etc/passwd",
    "two slashes": "//etc/passwd",
    "dot": ".",
    "dots": "..",
    "up": "../x",
    "up and up": "../../../../etc/passwd",
    "up in the middle": "a/../b",
    "up out of the middle": "a/../../b",
    "up at the end": "a/..",
    "here": "./a",
    "here in the middle": "a/./b",
    "here at the end": "a/.",
    "slash at the end": "a/",
    "empty part": "a//b",
    "NUL": "a\0b",
    "NUL at the end": "a\0",
    "NUL hides the end": "safe\0/../../x",
    "newline": "a\nb",
    "return": "a\rb",
    "tab": "a\tb",
    "escape": "a\x1b[2Jb",
    "bell": "a\x07",
    "delete": "a\x7f",
    "next line": "a\x85b",
    "one-character escape": "a\x9b2J",
    "not UTF-8": b"a\xff",
    "half a character": b"a\xe2\x82",
    "overlong slash": b"a\xc0\xafb",
    "overlong dots": b"\xc0\xae\xc0\xae/x",
    "surrogate": b"a\xed\xa0\x80",
    "long name": "x" * 256,
    "long name of two-byte letters": "\xe4" * 128,
    "long name below": "a/" + "x" * 256,
    "long path": "/".join(["x" * 200] * 21),
    "deep": "/".join(["x"] * 65),
    "very deep": "/".join(["x"] * 2000),
    "root and up": "/..",
    "here and up": "./..",
    "up with an empty part": "..//a",
    "up after empty parts": "a//..//..",
    "up below itself": "a/b/../../../c",
    "up and a slash": "../",
    "a slash and nothing": "a/b/",
    "three slashes": "a///b",
    "NUL alone": "\0",
    "NUL and up": "\0/../x",
    "up and NUL": "../\0",
    "NUL as a folder": "a/\0/b",
    "line ends of Windows": "a\r\nb",
    "a title for the terminal": "a\x1b]0;title\x07",
    "a clipboard for the terminal": "a\x1b]52;c;eA==\x07",
    "a lone continuation": b"a\x80b",
    "a five-byte form": b"\xf8\x88\x80\x80\x80",
    "beyond the last character": b"\xf4\x90\x80\x80",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
    "an overlong slash of three bytes": b"a\xe0\x80\xafb",
    "an overlong slash of four bytes": b"a\xf0\x80\x80\xafb",
    "an overlong NUL": b"a\xc0\x80",
    "UTF-16": "../x".encode("utf-16-le"),
    "one byte too long": "x/" * 20 + "y" * 217 + "/" + "/".join(["z" * 255] * 15),
    "long name of four-byte letters": "\U0001f600" * 64,
    "long name at the end": "a/b/c/" + "y" * 300,
    "deep with an end": "/".join(["d"] * 64) + "/file",
}

_CONTROLS = {
    f"{code:02x}": f"a{chr(code)}b" for code in (*range(1, 0x20), *range(0x7F, 0xA0)) if code != 10
}

_TARGETS: dict[str, tuple[str, str | bytes]] = {
    "absolute": ("a", "/etc/passwd"),
    "root": ("a", "/"),
    "two slashes": ("a", "//x"),
    "up": ("a", "../x"),
    "only up": ("a", ".."),
    "up from below": ("a/b", "../../x"),
    "far up": ("a/b/c", "../../../x"),
    "here, then up": ("a", "./../x"),
    "through a folder and up": ("a", "b/../../x"),
    "through a folder and back": ("a", "b/../c"),
    "through a link and back": ("a/b", "c/.."),
    "empty parts and up": ("a", ".//..//x"),
    "empty": ("a", ""),
    "NUL": ("a", "b\0c"),
    "newline": ("a", "b\nc"),
    "escape": ("a", "\x1b[2J"),
    "not UTF-8": ("a", b"\xff"),
    "too long": ("a", "x/" * 2500),
    "proc": ("a", "/proc/self/root/etc/shadow"),
    "up at the end": ("a", "x/.."),
    "up and absolute": ("a/b", "..//etc/../../x"),
    "here and up at the end": ("a", "./.."),
    "up of a folder": ("a/b", "../.."),
    "up of a folder with a slash": ("a/b", "../../"),
    "up, down and up": ("a/b", "../c/../../x"),
    "many ups": ("a/b/c/d", "../" * 5 + "x"),
    "ups with empty parts": ("a/b", "..//..//x"),
    "down twice and up thrice": ("a", "b/c/../../../x"),
    "home": ("a", "/root/.ssh/id_ed25519"),
    "own memory": ("a", "/proc/self/mem"),
    "own handles": ("a", "/proc/self/fd/3"),
    "a device": ("a", "/dev/tty"),
    "return": ("a", "b\rc"),
    "next line": ("a", "b\x85"),
    "surrogate": ("a", b"\xed\xa0\x80"),
    "overlong dots": ("a", b"\xc0\xae\xc0\xae/x"),
    "half a character": ("a", b"\xe2\x82"),
    "NUL and up": ("a", "b\0/../../x"),
    "one byte too long": ("a", "x" * 4097),
}

_TOGETHER: dict[str, bytes] = {
    "a file twice": file_bytes("a") + file_bytes("a"),
    "a file and a folder": file_bytes("a") + folder_bytes("a"),
    "a folder and a file": folder_bytes("a") + file_bytes("a"),
    "a file and a link": file_bytes("a") + link_bytes("a", "b"),
    "a link twice": link_bytes("a", "b") + link_bytes("a", "c"),
    "a folder twice": folder_bytes("a") + folder_bytes("a"),
    "below a file": file_bytes("a") + file_bytes("a/b"),
    "below a link": link_bytes("a", "b") + file_bytes("a/c"),
    "a folder below a link": link_bytes("a", "b") + folder_bytes("a/c"),
    "a link below a link": link_bytes("a", "b") + link_bytes("a/c", "d"),
    "far below a file": file_bytes("a") + file_bytes("a/b/c/d"),
    "a folder that is not empty": folder_bytes("a") + file_bytes("a/b"),
    "a folder below a folder": folder_bytes("a") + folder_bytes("a/b"),
    "out of order": file_bytes("b") + file_bytes("a"),
    "order of bytes, not of parts": file_bytes("a-b") + file_bytes("a/b"),
    "parts out of order": file_bytes("a/c") + file_bytes("a/b"),
    "a folder after what is in it": file_bytes("a/b") + folder_bytes("a"),
    "below a program": file_bytes("a", 1) + file_bytes("a/b"),
    "a program and a file": file_bytes("a", 1) + file_bytes("a"),
    "a file below a link to above": link_bytes("a/b", "../c") + file_bytes("a/b/d"),
    "a link to itself and below it": link_bytes("a", "a") + file_bytes("a/a"),
    "two links in a ring and below": link_bytes("a", "b")
    + link_bytes("b", "a")
    + file_bytes("b/c"),
    "good, then up": file_bytes("a") + file_bytes("../b"),
    "up, then good": file_bytes("../b") + file_bytes("a"),
    "good, then absolute": file_bytes("a") + link_bytes("b", "/etc"),
    "a link, then through it": link_bytes("a", "b") + file_bytes("a/../../x"),
    "far below a link": link_bytes("a", "b") + folder_bytes("a/b/c/d"),
}

_BROKEN: dict[str, bytes] = {
    "a kind that is none": _head(4, "a"),
    "the last kind": _head(255, "a"),
    "an empty chunk": file_bytes("a", sizes=(0,)),
    "an empty chunk among others": file_bytes("a", sizes=(1, 0, 1)),
    "a chunk too large": file_bytes("a", sizes=((1 << 20) + 1,)),
    "the largest number as size": file_bytes("a", sizes=(0xFFFFFFFF,)),
    "more chunks than bytes": _head(0, "a") + struct.pack("<I", 0xFFFFFFFF),
    "more chunks than digests": file_bytes("a", sizes=(1, 1))[:-32],
    "half a digest": file_bytes("a")[:-16],
    "no chunks said": _head(0, "a"),
    "half a number of chunks": _head(0, "a") + b"\0\0",
    "a path longer than the rest": struct.pack("<BH", 0, 9) + b"abc",
    "a kind alone": b"\0",
    "half a path length": b"\0\1",
    "a target longer than the rest": _head(2, "a") + struct.pack("<H", 9) + b"abc",
    "no target": _head(2, "a"),
    "bytes after the end": file_bytes("a") + b"\0",
    "a NUL after the end": folder_bytes("a") + b"\0\0\0",
    "a program with an empty chunk": file_bytes("a", 1, sizes=(0,)),
    "sizes whose sum wraps": file_bytes("a", sizes=(0x80000000, 0x80000000)),
    "another list inside": file_bytes("a") + MAGIC + file_bytes("b"),
    "the beginning again": MAGIC,
    "a folder with chunks": folder_bytes("a") + struct.pack("<I", 1) + b"\7" * 36,
    "numbers of the other end": _head(0, "a") + struct.pack(">I", 1) + b"\7" * 36,
}

_GOOD = MAGIC + folder_bytes("a") + file_bytes("b/c", sizes=(1, 2)) + link_bytes("d", "b/c")

_CUTS = {
    str(end): _GOOD[:end]
    for end in range(len(_GOOD))
    if end not in (len(MAGIC), len(MAGIC) + 4, len(_GOOD) - 9)
}

HOSTILE: dict[str, bytes] = (
    {f"file: {name}": MAGIC + file_bytes(path) for name, path in _PATHS.items()}
    | {f"folder: {name}": MAGIC + folder_bytes(path) for name, path in _PATHS.items()}
    | {f"link: {name}": MAGIC + link_bytes(path, "a") for name, path in _PATHS.items()}
    | {f"program: {name}": MAGIC + file_bytes(path, 1) for name, path in _PATHS.items()}
    | {f"control: {name}": MAGIC + file_bytes(path) for name, path in _CONTROLS.items()}
    | {f"cut off: {name}": encoded for name, encoded in _CUTS.items()}
    | {f"target: {name}": MAGIC + link_bytes(*both) for name, both in _TARGETS.items()}
    | {f"together: {name}": MAGIC + both for name, both in _TOGETHER.items()}
    | {f"broken: {name}": MAGIC + entry for name, entry in _BROKEN.items()}
    | {
        "nothing": b"",
        "another beginning": b"PK\x03\x04" + file_bytes("a"),
        "a later version": MAGIC.replace(b"-1", b"-2") + file_bytes("a"),
        "half a beginning": MAGIC[:-3],
    }
)
"""At least 300 encodings, each of which must be refused."""
