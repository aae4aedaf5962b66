"""Which provider a workflow means, and what is said where there is none."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from dstack_scheduler.providers.installed import BrokenProvider, installed
from dstack_scheduler.providers.port import Provider
from dstack_scheduler.providers.registry import FILES, provider_of
from dstack_scheduler.workflow.problem import Code, did_you_mean
from dstack_scheduler.workflow.project import Written
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import Node, ScalarNode, describe, find, is_null, shorten

NO_PROVIDERS: Mapping[str, Provider] = MappingProxyType({})

ELSEWHERE = "copy the program and its entry of .dstack/providers.yaml into this repository"
"""What to do about a provider of another repository: code that a file names is never fetched."""

_PYTHON_VERSION = re.compile(r"python[/:=\s]*([0-9]+(?:\.[0-9]+)?)\Z", re.IGNORECASE)


def choose(
    written: Written, scope: Scope, own: Mapping[str, Provider] = NO_PROVIDERS
) -> Provider | None:
    """The provider of a workflow; None and a problem if there is none.

    Args:
        own: Providers of the project.
    """
    entry = find(written.node, ("provider",))
    if entry is None:
        if find(written.node, ("image",)):
            from dstack_scheduler.providers.docker import IMAGE_AND_COMMANDS  # most need none

            return IMAGE_AND_COMMANDS
        scope.complain(
            written.node,
            Code.MISSING_PROVIDER,
            f'The workflow "{written.name}" has neither a provider nor an image.',
            "add provider: bash, or image: python:3.11 to run in a container",
        )
        return None
    return _named(entry[1], scope.within("provider"), own)


def _named(node: Node, scope: Scope, own: Mapping[str, Provider]) -> Provider | None:
    if not isinstance(node, ScalarNode):
        scope.complain(
            node,
            Code.NOT_SUPPORTED_YET,
            f"A provider is a name in this version, not {describe(node)}.",
            ELSEWHERE,
        )
        return None
    if is_null(node) or not node.text:
        scope.complain_empty(node)
        return None
    provider = own.get(node.text) or provider_of(node.text)
    if isinstance(provider, Provider):
        return provider
    complain_of_provider(node, node.text, scope)
    return None


def complain_of_provider(node: Node, name: str, scope: Scope) -> None:
    """Says why there is no such provider."""
    base, at, _ = name.partition("@")
    version = _PYTHON_VERSION.match(name)
    broken = provider_of(name)
    if isinstance(broken, BrokenProvider):
        scope.complain(
            node,
            Code.BROKEN_PROVIDER,
            f'The provider "{shorten(name)}" of the package {broken.package} cannot be used: '
            f"{shorten(broken.why, 200)}.",
            f"install {broken.package} anew, or remove it",
        )
        return
    if at and not version:
        scope.complain(node, Code.NOT_SUPPORTED_YET, *_other_version(base, name))
        return
    scope.complain(
        node,
        Code.UNKNOWN_PROVIDER,
        f'There is no provider "{shorten(name)}".',
        f'write provider: python and python: "{version[1]}"'
        if version
        else did_you_mean(name, (*FILES, *installed())),
    )


def _other_version(base: str, name: str) -> tuple[str, str]:
    """Why a provider of another branch is not fetched, and what to do instead."""
    return (
        f'A provider comes with what is installed here, so "{shorten(name)}" is not fetched.',
        f"write provider: {base}, which is the version of dstack-mesh that you have"
        if base in FILES
        else ELSEWHERE,
    )
