"""Which run or agent a person means: `@`, `@2`, a name, or any unique prefix of a name or id."""

import difflib
from collections.abc import Iterable, Sequence

from dstack_cli.misused import Misused
from dstack_mesh.faults import Missing
from dstack_mesh.frozen import frozen

LISTINGS = {"run": "dstack ps -a", "member": "dstack mesh members"}
"""What lists the things of a kind."""


@frozen
class Named:
    """Something that can be called by its name or its id."""

    name: str
    id: str


def find(text: str, known: Sequence[Named], what: str) -> Named:
    """The one that is meant. `known` has the newest first; `what` is "run" or "agent".

    Raises:
        Missing: There is none; close spellings are in the hint.
        Misused: Several are possible; they are listed.
    """
    if text.startswith("@"):
        return _counted(text, known, what)
    called = [one for one in known if text in (one.name, one.id)]
    if len(called) > 1 and what == "run":
        raise Misused(
            f"{len(called)} runs are called {text}.",
            f"Their ids are {listed(one.id for one in called)}, the newest first.",
            "give the id of one; dstack ps -a -v says more of each",
            code="ambiguous",
        )
    if called:
        return called[0]
    matching = [one for one in known if one.name.startswith(text) or one.id.startswith(text)]
    match matching:
        case [one]:
            return one
        case []:
            raise _missing(text, known, what)
        case _:
            raise Misused(
                f"{text!r} could be several {what}s.",
                f"They are {listed(one.name for one in matching)}.",
                f"give more letters of the name, as {matching[0].name}",
                code="ambiguous",
            )


def _counted(text: str, known: Sequence[Named], what: str) -> Named:
    digits = text[1:] or "1"
    if not digits.isascii() or not digits.isdigit() or digits.strip("0") == "":
        raise Misused(f"{text!r} names no {what}.", "@ is the last one, @2 the one before.")
    place = int(digits)
    if place > len(known):
        raise Missing(
            f"There is no {what} {text}.",
            _known(known, what),
            LISTINGS.get(what, "dstack agents"),
        )
    return known[place - 1]


def _missing(text: str, known: Sequence[Named], what: str) -> Missing:
    listing = LISTINGS.get(what, "dstack agents")
    hint = close_to(text, [one.name for one in known]) or f"{listing} lists them"
    return Missing(f"There is no {what} {text!r}.", _known(known, what), hint)


def _known(known: Sequence[Named], what: str) -> str:
    return f"1 {what} is known." if len(known) == 1 else f"{len(known)} {what}s are known."


def close_to(text: str, known: Iterable[str]) -> str:
    """A question after what was meant, if something known is spelled like it; else ""."""
    lower = {one.lower(): one for one in reversed(list(known))}
    close = difflib.get_close_matches(text.lower(), lower, n=3, cutoff=0.6)
    return f"did you mean {listed((lower[one] for one in close), 'or')}?" if close else ""


def misread(word: str, known: Sequence[str], more: str) -> Misused:
    """The error of a word that is none of those that a verb takes."""
    why = f"There are {listed(known)}."
    return Misused(f"{word!r} cannot be meant.", why, close_to(word, known) or more, code="usage")


def said_twice(what: str, one: str, other: str) -> Misused:
    """The error of two words for one thing."""
    why = f"They are {one} and {other}."
    return Misused(f"The command line says two {what}s.", why, "leave one away", code="usage")


def listed(words: Iterable[str], last: str = "and") -> str:
    """Words as a sentence lists them: "a", "a and b", "a, b and c"."""
    all_words = list(words)
    if len(all_words) < 2:
        return "".join(all_words)
    return f"{', '.join(all_words[:-1])} {last} {all_words[-1]}"
