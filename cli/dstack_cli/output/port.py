"""What a command says its result to: a person, a script, or a script that wants names alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from dstack_mesh.frozen import frozen

if TYPE_CHECKING:
    from dstack_cli.output.table import Table

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


@frozen
class Listing:
    """A list of things.

    Attributes:
        schema: Its stable name and version, as "dstack.runs/v1".
        items: What scripts get. Keys are only ever added.
        table: What people get.
        names: What `-q` prints, one a line.
        empty: What people are told when there is nothing.
    """

    schema: str
    items: Sequence[Mapping[str, Json]]
    table: "Table"
    names: Sequence[str] = ()
    empty: str = ""


@frozen
class Document:
    """One thing. `text` is what people get on standard output; `name` is what `-q` prints."""

    fields: Mapping[str, Json]
    text: str = ""
    name: str = ""


class Output(Protocol):
    """Where results go."""

    def listing(self, listing: Listing) -> None:
        """Shows a list."""
        ...

    def document(self, document: Document) -> None:
        """Shows one thing."""
        ...

    def talk(self, line: str) -> None:
        """Says something that is no result."""
        ...
