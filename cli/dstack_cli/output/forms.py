"""The forms of output: for people, as JSON, names alone."""

import sys
from typing import TextIO

from dstack_cli.output.port import Document, Listing, Output
from dstack_cli.output.table import draw


class HumanOutput:
    """Tables that fit the terminal, sentences on standard error."""

    def __init__(self, width: int | None, stdout: TextIO, stderr: TextIO) -> None:
        self._width = width
        self._stdout = stdout
        self._stderr = stderr

    def listing(self, listing: Listing) -> None:
        if not listing.items and listing.empty:
            self.talk(listing.empty)
            return
        if listing.items and not listing.table.rows:  # nothing of it is for people
            return
        self._stdout.write("".join(f"{line}\n" for line in draw(listing.table, self._width)))
        self._stdout.flush()

    def document(self, document: Document) -> None:
        if document.text:
            print(document.text, file=self._stdout, flush=True)

    def talk(self, line: str) -> None:
        print(line, file=self._stderr, flush=True)


class JsonOutput:
    """One JSON document a command on standard output."""

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self._stdout = stdout
        self._stderr = stderr

    def listing(self, listing: Listing) -> None:
        self._print({"schema": listing.schema, "items": list(listing.items)})

    def document(self, document: Document) -> None:
        self._print(document.fields)

    def talk(self, line: str) -> None:
        print(line, file=self._stderr, flush=True)

    def _print(self, shape: object) -> None:
        import json

        print(json.dumps(shape, ensure_ascii=False), file=self._stdout, flush=True)


class NamesOutput:
    """Names alone, one a line."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def listing(self, listing: Listing) -> None:
        for name in listing.names:
            print(name, file=self._stdout)

    def document(self, document: Document) -> None:
        if document.name:
            print(document.name, file=self._stdout, flush=True)

    def talk(self, line: str) -> None:
        """Says nothing."""


def chosen(as_json: bool = False, quiet: bool = False) -> Output:
    """The form that the flags of a command ask for, on the streams of this process."""
    if as_json:
        return JsonOutput(sys.stdout, sys.stderr)
    if quiet:
        return NamesOutput(sys.stdout)
    from dstack_cli.output.terminal import Terminal

    return HumanOutput(Terminal.of_process().width, sys.stdout, sys.stderr)
