"""What is wrong with YAML that is none, in words that help."""

from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.tree import shorten

MAX_DEPTH = 32
"""Lists and mappings within each other."""

TOO_DEEP = (
    Code.TOO_DEEP,
    f"Lists and mappings are nested more than {MAX_DEPTH} deep.",
    "write it flatter",
)

_SYNTAX = (
    (
        "mapping values are not allowed",
        "A colon followed by a space begins a mapping here.",
        "indent it below its key, or quote the whole value",
    ),
    (
        "could not find expected ':'",
        "There is a line without a colon where a key should be.",
        "write `key: value`, or check the indentation",
    ),
    (
        "did not find expected key",
        "This is where a key should be.",
        "check the indentation and the quotes of the lines before; begin list items with `- `",
    ),
    (
        "did not find expected '-' indicator",
        "This is where a list item should be.",
        "begin it with `- `, in the column of the other items",
    ),
    (
        "did not find expected ',' or",
        "A list in brackets or a mapping in braces is not closed, or lacks a comma.",
        "close it; quote values that hold { } [ ] or commas",
    ),
    (
        "unexpected end of stream",
        "A quoted text is never closed.",
        "close it with the quote that it begins with",
    ),
    (
        "unknown escape character",
        "A backslash in double quotes begins an escape that does not exist.",
        "use single quotes, or write two backslashes",
    ),
    (
        "cannot start any token",
        "No value can begin with this character.",
        "quote the value",
    ),
    (
        "control characters are not allowed",
        "There is a control character in the file.",
        "delete it",
    ),
)
"""libyaml's words, ours, and the fix."""


def tab_indentation(lines: list[str], line: int) -> tuple[int, int] | None:
    """Line and column of the tab in an indentation at or just before a line, counted from 1."""
    for number in (line, line - 1):
        if 0 <= number < len(lines):
            indentation = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            if "\t" in indentation and lines[number].strip():
                return number + 1, indentation.index("\t") + 1
    return None


def in_words(problem: str) -> tuple[Code, str, str]:
    """Code, message and hint for what the parser says."""
    if "nesting depth" in problem:  # libyaml reads ahead, and newer ones have a limit of their own
        return TOO_DEEP
    for words, message, hint in _SYNTAX:
        if words in problem:
            return Code.SYNTAX, message, hint
    return (
        Code.SYNTAX,
        f"This is not YAML: {shorten(problem, 120)}.",
        "check quotes and indentation",
    )
