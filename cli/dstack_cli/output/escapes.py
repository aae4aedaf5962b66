"""Takes everything out of a job's output that would act on a terminal, but colours.

A job's output is somebody else's bytes: an escape sequence in it can move the cursor over what we
said, set the window's title, or make some terminals type. Colours (SGR) stay, so do newline,
carriage return, tab and backspace. Sequences may be cut anywhere between two frames.
"""

import codecs
import re
from enum import Enum, auto

LONGEST_SEQUENCE = 256
"""Characters kept while waiting for the end of a sequence; a longer one is none."""

_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)(?P<params>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|(?P<string>\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])"
    r"|\x1b[ -/]*[0-~]"
    r"|(?P<lone>[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f])"
)
_UNFINISHED = re.compile(r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*|\x1b[ -/]*)\Z")
_STRING_END = re.compile(r"\x07|\x9c|\x1b\\|[\x18\x1a]|\x1b(?=[^\\])")
_COLOUR = re.compile(r"[0-9;:]*\Z")


class _Place(Enum):
    TEXT = auto()
    STRING = auto()


class EscapeFilter:
    """Filters one stream. Feed it bytes as they come; it returns what may be shown."""

    def __init__(self, keep_colour: bool = True) -> None:
        self._keep_colour = keep_colour
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._place = _Place.TEXT
        self.coloured = False

    def feed(self, data: bytes) -> bytes:
        """What may be shown of the next bytes; the start of a sequence waits for its end."""
        text = self._held + self._decode.decode(data)
        self._held = ""
        shown: list[str] = []
        while text:
            match self._place:
                case _Place.TEXT:
                    text = self._through_text(text, shown)
                case _Place.STRING:
                    text = self._through_string(text)
        return "".join(shown).encode()

    def finish(self) -> bytes:
        """Ends the stream: what was held is dropped, a colour that was left on is put off."""
        self._held = ""
        self._place = _Place.TEXT
        rest = self._decode.decode(b"", final=True)
        reset = "\x1b[0m" if self.coloured else ""
        self.coloured = False
        return (rest + reset).encode()

    def _through_text(self, text: str, shown: list[str]) -> str:
        """Shows text up to a string sequence, which it enters; returns what is left."""
        unfinished = _UNFINISHED.search(text, max(0, len(text) - LONGEST_SEQUENCE))
        if unfinished is not None:
            self._held = unfinished.group()
            text = text[: unfinished.start()]
        at = 0
        for found in _SEQUENCE.finditer(text):
            shown.append(text[at : found.start()])
            at = found.end()
            if found["string"] is not None:
                self._place = _Place.STRING
                rest = text[at:] + self._held
                self._held = ""
                return rest
            shown.append(self._colour(found))
        shown.append(text[at:])
        return ""

    def _through_string(self, text: str) -> str:
        """Drops a string sequence up to its end; returns what comes after it."""
        end = _STRING_END.search(text)
        if end is None:
            self._held = "\x1b" if text.endswith("\x1b") else ""
            return ""
        self._place = _Place.TEXT
        starts_another = end.group() == "\x1b"
        return text[end.start() if starts_another else end.end() :]

    def _colour(self, found: "re.Match[str]") -> str:
        if not self._keep_colour or found["final"] != "m" or found["between"]:
            return ""
        params = found["params"]
        if _COLOUR.match(params) is None:
            return ""
        self.coloured = params not in ("", "0")
        return f"\x1b[{params}m"


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text that somebody else wrote, fit to stand in our own: control characters shown as dots."""
    return _CONTROL.sub("·", text)
