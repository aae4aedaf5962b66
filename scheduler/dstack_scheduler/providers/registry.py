"""Which providers there are."""

import re
from collections.abc import Mapping

from dstack_scheduler.providers.bash import BASH
from dstack_scheduler.providers.docker import DOCKER, IMAGE_AND_COMMANDS
from dstack_scheduler.providers.port import Provider
from dstack_scheduler.providers.python import PYTHON_SCRIPT
from dstack_scheduler.workflow.problem import Code, did_you_mean
from dstack_scheduler.workflow.project import Written
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import Node, ScalarNode, describe, find, is_null, shorten

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider for provider in (BASH, DOCKER, PYTHON_SCRIPT)
}
"""By name, as in `provider: NAME` and `dstack run NAME`."""

LATER = frozenset(
    {
        "code",
        "curl",
        "fastapi",
        "gradio",
        "lab",
        "notebook",
        "ssh",
        "streamlit",
        "tensorboard",
        "torchrun",
    }
)
"""Providers that the language has and this version does not carry out."""

_PYTHON_VERSION = re.compile(r"python[/:=\s]*([0-9]+(?:\.[0-9]+)?)\Z", re.IGNORECASE)


def choose(written: Written, scope: Scope) -> Provider | None:
    """The provider of a workflow; None and a problem if there is none."""
    entry = find(written.node, ("provider",))
    if entry is None:
        if find(written.node, ("image",)):
            return IMAGE_AND_COMMANDS
        scope.complain(
            written.node,
            Code.MISSING_PROVIDER,
            f'The workflow "{written.name}" has neither a provider nor an image.',
            "add provider: bash, or image: python:3.11 to run in a container",
        )
        return None
    return _named(entry[1], scope.within("provider"))


def _named(node: Node, scope: Scope) -> Provider | None:
    if not isinstance(node, ScalarNode):
        scope.complain(
            node,
            Code.NOT_SUPPORTED_YET,
            f"A provider is a name in this version, not {describe(node)}.",
            "use bash, python or docker",
        )
        return None
    if is_null(node) or not node.text:
        scope.complain_empty(node)
        return None
    provider = PROVIDERS.get(node.text)
    if provider is None:
        complain_of_provider(node, node.text, scope)
    return provider


def complain_of_provider(node: Node, name: str, scope: Scope) -> None:
    """Says why there is no such provider."""
    base, at, _ = name.partition("@")
    version = _PYTHON_VERSION.match(name)
    if base in LATER or (at and base in PROVIDERS):
        scope.complain(
            node,
            Code.NOT_SUPPORTED_YET,
            f'This version does not have the provider "{shorten(name)}" yet.',
            "use bash, python or docker",
        )
        return
    scope.complain(
        node,
        Code.UNKNOWN_PROVIDER,
        f'There is no provider "{shorten(name)}".',
        f'write provider: python and python: "{version[1]}"'
        if version
        else did_you_mean(name, PROVIDERS),
    )
