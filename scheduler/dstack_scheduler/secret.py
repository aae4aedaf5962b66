"""Secrets by name: what a name may be, where one stands in a text, and how its value gets there.

A value travels beside a specification, never in it. In a specification it is a placeholder,
`${{ secrets.NAME }}`, which only the machine that runs the job fills in.
"""

import re
from collections.abc import Iterable, Mapping

from dstack_mesh.faults import Invalid
from dstack_mesh.frozen import frozen

LONGEST_VALUE_BYTES = 64 * 1024
MOST_NAMES = 100

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PLACEHOLDER = re.compile(r"\$\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_TAKEN = re.compile(
    r"BASH_ENV|ENV|HOME|IFS|PATH|PWD|SHELL|TMPDIR|CUDA_VISIBLE_DEVICES|PYTHON\w*|(LD|NVIDIA|DSTACK)_\w*"
)


@frozen
class RegistryAuth:
    """What an image is pulled with. Texts with placeholders; the password is nothing else."""

    username: str
    password: str


def why_no_name(name: str) -> str:
    """Why a secret cannot have this name; empty if it can. A job gets it as a variable."""
    if not _NAME.fullmatch(name):
        return "names have letters, digits and _, and do not begin with a digit"
    return "a job's own variables have that name" if _TAKEN.fullmatch(name) else ""


def check_value(name: str, value: str) -> None:
    """Raises Invalid for a value that no variable can hold. Never says the value."""
    if not value:
        raise Invalid(f"The secret {name} is empty.", hint="give it a value", code="bad-secret")
    if "\0" in value:
        raise Invalid(f"The secret {name} holds a NUL character.", code="bad-secret")
    if len(value.encode(errors="surrogateescape")) > LONGEST_VALUE_BYTES:
        why = f"It may have {LONGEST_VALUE_BYTES // 1024} KiB."
        raise Invalid(f"The secret {name} is too long.", why, code="bad-secret")


def named_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The secrets whose placeholders stand in texts, each once, in order."""
    return tuple(dict.fromkeys(name for text in texts for name in _PLACEHOLDER.findall(text)))


def needed(
    names: Iterable[str], env: Mapping[str, str], auth: RegistryAuth | None
) -> tuple[str, ...]:
    """The secrets of a job: those that it gets, and those that are filled in for it."""
    texts = (*env.values(), *((auth.username, auth.password) if auth else ()))
    return tuple(dict.fromkeys((*names, *named_in(texts))))


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders filled in; what a value holds is not looked at again."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def is_placeholder(text: str) -> bool:
    """Whether a text is a placeholder and nothing else."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None
