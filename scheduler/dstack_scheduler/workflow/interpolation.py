"""Puts values of variables into text: `$name` and `${{ name }}`.

What is replaced: declared variables and `run_name`, `job_id`, `variables_as_args`; the longest name
that fits wins. Everything else with a dollar (`$HOME`, `$1`, `$PORT_0`, `$$`, `\\$name`) is the
shell's; `$${{` is `${{` for whoever reads it later. Values are put in as they were written, once: a
value that looks like a variable is not looked up again. `${{ secrets.X }}` stays; where it may
stand the machine that runs the job fills it in.
"""

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import field
from typing import NamedTuple

from dstack_mesh.frozen import frozen

RUN_ARGS = "run.args"

_PLACES = re.compile(
    r"\\\$|(?P<kept>\$\$\{\{)|\$\$|\$\{\{(?P<braced>[^{}]*)\}\}|(?P<open>\$\{\{)"
    r"|\$(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)"
)
_SECRET = re.compile(r"secrets\.([A-Za-z_][A-Za-z0-9_]*)\Z")


class Unknown(NamedTuple):
    """Something in double braces that stands for nothing. `text` is as written, with the braces."""

    text: str
    name: str


class Substituted(NamedTuple):
    """Text with its variables put in, and what was met on the way."""

    text: str
    used: frozenset[str] = frozenset()
    secrets: tuple[str, ...] = ()
    unknown: tuple[Unknown, ...] = ()


@frozen
class Values:
    """What can be put into the text of one workflow.

    Attributes:
        variables: Names as declared, values as written.
        own: The part of the variables that `$variables_as_args` lists.
        run_name: For `$run_name` and `${{ run.name }}`.
        job_id: For `$job_id`.
        run_args: For `${{ run.args }}`, each quoted for the shell.
    """

    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    run_name: str = ""
    job_id: str = ""
    run_args: tuple[str, ...] = ()

    def table(self) -> dict[str, str]:
        """Every name that may follow a dollar or stand in double braces."""
        system = {
            "run_name": self.run_name,
            "job_id": self.job_id,
            "variables_as_args": as_arguments(self.variables),
            "run.name": self.run_name,
            RUN_ARGS: shlex.join(self.run_args),
        }
        dashed = {name.replace("-", "_"): value for name, value in self.variables.items()}
        return {**system, **dashed, **self.variables}


class Interpolator:
    """Puts the values of one workflow into any number of texts."""

    def __init__(self, values: Values) -> None:
        self._table = values.table()

    @property
    def names(self) -> Collection[str]:
        """Every name that stands for something."""
        return self._table.keys()

    def put_into(self, text: str) -> Substituted:
        """The text with every known variable replaced."""
        if "$" not in text:
            return Substituted(text)
        used: dict[str, None] = {}
        secrets: dict[str, None] = {}
        unknown: list[Unknown] = []

        def replace(match: re.Match[str]) -> str:
            whole = match.group()
            if match["kept"]:
                return whole[1:]
            if match["name"] is not None:
                name = self._longest(match["name"])
                if name is None:
                    return whole
                used[name] = None
                return self._table[name] + whole[len(name) + 1 :]
            if match["braced"] is None:
                if match["open"]:
                    unknown.append(Unknown(whole, ""))
                return whole
            name = match["braced"].strip()
            if name in self._table:
                used[name] = None
                return self._table[name]
            secret = _SECRET.match(name)
            if secret:
                secrets[secret[1]] = None
            else:
                unknown.append(Unknown(whole, name))
            return whole

        replaced = _PLACES.sub(replace, text)
        return Substituted(replaced, frozenset(used), tuple(secrets), tuple(unknown))

    def _longest(self, text: str) -> str | None:
        """The longest known name that a text begins with and that ends where a word does."""
        while text and text not in self._table:
            text = text[: max(text.rfind("."), text.rfind("-"), 0)]
        return text or None


def as_arguments(variables: Mapping[str, str]) -> str:
    """Variables as they would be given to a script: `--lr 0.1 --epochs 3`, quoted for the shell."""
    return " ".join(f"--{name} {shlex.quote(value)}" for name, value in variables.items())
