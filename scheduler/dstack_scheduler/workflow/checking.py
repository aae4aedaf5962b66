"""From a workflow as it was written to one that is checked, by the keys of its provider."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from dstack_scheduler.providers.choosing import NO_PROVIDERS, choose
from dstack_scheduler.providers.port import WRITTEN, Provider
from dstack_scheduler.providers.registry import PROVIDERS
from dstack_scheduler.workflow.keys import COMMON
from dstack_scheduler.workflow.model import Key, Workflow
from dstack_scheduler.workflow.plain import plain
from dstack_scheduler.workflow.problem import MEANT, Code, did_you_mean, nearest, one_of
from dstack_scheduler.workflow.project import Written
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.tree import ScalarNode, shorten


class Checked(NamedTuple):
    """A workflow as far as it could be understood; `provider` is None if there is none for it."""

    workflow: Workflow
    provider: Provider | None


def check(written: Written, scope: Scope, own: Mapping[str, Provider] = NO_PROVIDERS) -> Checked:
    """Reads every key of a workflow; what is wrong goes to the scope's report.

    Args:
        own: Providers of the project.
    """
    provider = choose(written, scope, own)
    keys = {**COMMON, **(provider.keys if provider else {})}
    workflow = Workflow(written.name, provider.name if provider else "", direct=written.direct)
    spelled: dict[str, str] = {}
    misspelt: list[str] = []
    for key, node in written.node.entries:
        inner = scope.within(key.text)
        row = keys.get(key.text)
        if row is None and provider is not None and provider.any_key:
            continue
        if row is None:
            _complain_of_key(key, provider, inner)
            misspelt.append(key.text)
        elif row.meaning in spelled:
            _complain_of_twin(key, spelled[row.meaning], inner)
        else:
            spelled[row.meaning] = key.text
            workflow = row.read(workflow, node, inner)
    if provider:
        # A misspelt key is one mistake, not a missing one as well.
        there = {*spelled, *(_meant(word, keys) for word in misspelt)}
        _complain_of_missing(written, provider, there, scope)
        if provider.any_key:
            keys_in_json = json.dumps(plain(written.node, scope))
            workflow = replace(workflow, options={**workflow.options, WRITTEN: keys_in_json})
    return Checked(workflow, provider)


def _meant(word: str, keys: Mapping[str, Key]) -> str:
    """The meaning that a misspelt key probably has."""
    key = keys.get(nearest(word, keys) or "")
    return key.meaning if key else ""


def takes(provider: Provider, meaning: str) -> bool:
    """Whether a provider has a key of a meaning."""
    return any(key.meaning == meaning for key in (*COMMON.values(), *provider.keys.values()))


def _complain_of_key(key: ScalarNode, provider: Provider | None, scope: Scope) -> None:
    name = key.text
    if provider is None:
        # Nobody knows which other keys there are, and that is a problem already.
        return
    known = (*COMMON, *provider.keys)
    meant = MEANT.get(name) in known
    takers = [other.name for other in PROVIDERS.values() if name in other.keys]
    scope.complain(
        key,
        Code.UNKNOWN_KEY,
        f'The provider {provider.name} takes no key "{shorten(name)}".',
        f"it belongs to {one_of(takers)}; remove it or change the provider"
        if takers and not meant
        else did_you_mean(name, known),
    )


def _complain_of_twin(key: ScalarNode, first: str, scope: Scope) -> None:
    scope.complain(
        key,
        Code.SAID_TWICE,
        f'"{key.text}" says the same as "{first}", which is there already.',
        "keep one of them",
    )


def _complain_of_missing(
    written: Written,
    provider: Provider,
    there: Collection[str],
    scope: Scope,
) -> None:
    for name in provider.required:
        key = provider.keys[name]
        if key.meaning in there:
            continue
        if written.direct:
            message = f'"dstack run {provider.name}" lacks its {name}.'
            hint = f"write {provider.direct.usage}"
        else:
            message = f'The workflow "{written.name}" lacks "{name}".'
            hint = f"add {key.example}"
        scope.within(name).complain(written.node, Code.MISSING_KEY, message, hint)
