"""What a job finds in its environment: `env` in all its forms, and the variables."""

import re
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.secret import named_in, why_no_name
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code, Place
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXTS, Either, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import MapNode, Node, ScalarNode, is_null, shorten

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")

_MAPPING = Table(
    dict, pattern="^[A-Za-z_][A-Za-z0-9_.-]*$", further=Either((Scalar.TEXT, Scalar.NOTHING))
)

NEVER_EXPORTED = frozenset(
    {
        "BASH_ENV",
        "ENV",
        "HOME",
        "HOSTNAME",
        "IFS",
        "JOB_HOSTNAME",
        "JOB_ID",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LOGNAME",
        "OLDPWD",
        "PATH",
        "PWD",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "RUN_NAME",
        "SHELL",
        "TMPDIR",
        "USER",
        "VIRTUAL_ENV",
    }
)
"""A variable of one of these names, or of one that begins with DSTACK_, is not exported: a workflow
that calls its data `path` would else lose every command."""


@shaped(Either((TEXTS, _MAPPING)))
def read_env(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`env:`, a list of `K=V` and bare `K`, or a mapping; extends what is there."""
    env = dict(workflow.env)
    scope = replace(scope, fills_secrets=True)
    if isinstance(node, MapNode):
        for key, value in node.entries:
            inner = scope.within(key.text)
            text = "" if is_null(value) else inner.shell(value)
            if _is_name(key.text, text, key.place, inner) and text is not None:
                env[key.text] = text
    else:
        for item in scope.items(node, "write env: [NAME=value]"):
            env |= _read_item(item, scope)
    return replace(workflow, env=env)


def exported(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables as the job's environment has them: `batch-size` is BATCH_SIZE."""
    named = {re.sub(r"[^A-Z0-9]", "_", name.upper()): value for name, value in variables.items()}
    return {name: value for name, value in named.items() if not _is_ours(name)}


def _is_ours(name: str) -> bool:
    return name in NEVER_EXPORTED or name.startswith("DSTACK_")


def _read_item(item: Node, scope: Scope) -> dict[str, str]:
    if isinstance(item, MapNode) and len(item.entries) == 1:
        key, value = item.entries[0]
        shown = shorten(value.text) if isinstance(value, ScalarNode) else "…"
        scope.complain(
            item,
            Code.BAD_ENV,
            f'"{shorten(key.text)}: {shown}" is a mapping, not NAME=value.',
            f"write {key.text}={shown}, or make env: a mapping without dashes",
        )
        return {}
    text = scope.shell(item)
    if text is None:
        return {}
    name, _, value = text.partition("=")
    return {name: value} if _is_name(name, value, item.place, scope) else {}


def _is_name(name: str, value: str | None, place: Place, scope: Scope) -> bool:
    if _NAME.match(name):
        if not (value and named_in((value,)) and (why := why_no_name(name))):
            return True
        scope.complain(
            place,
            Code.BAD_ENV,
            f'The variable "{shorten(name)}" cannot hold a secret.',
            f"choose another name: {why}",
        )
        return False
    scope.complain(
        place,
        Code.BAD_ENV,
        f'"{shorten(name)}" cannot be the name of an environment variable.',
        "write NAME=value; names have letters, digits and _",
    )
    return False
