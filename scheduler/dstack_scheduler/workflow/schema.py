"""The JSON Schema of workflow files for editors, made from the tables that the parser reads by.

`python -m dstack_scheduler.workflow.schema` prints it; `dstack init` writes it into `.dstack`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from dstack_scheduler.providers.docker import IMAGE_AND_COMMANDS
from dstack_scheduler.providers.port import Provider
from dstack_scheduler.providers.registry import PROVIDERS
from dstack_scheduler.workflow.keys import COMMON
from dstack_scheduler.workflow.model import Key
from dstack_scheduler.workflow.shapes import Either, ListOf, Scalar, Shape, Table, shape_of

FILE = "workflows.schema.json"
MODELINE = f"# yaml-language-server: $schema={FILE}"
"""For the first line of a workflows file; the path is relative to it."""

Json = dict[str, Any]

_VARIABLE: Json = {"type": "string", "pattern": r"\$"}
_SCALARS: Mapping[Scalar, Json] = {
    Scalar.TEXT: {"type": ["string", "number", "boolean"]},
    Scalar.NUMBER: {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\s*\+?[0-9]*\s*(\.\.)?\s*[0-9]*\s*$"},
            _VARIABLE,
        ]
    },
    Scalar.FLAG: {
        "anyOf": [
            {"type": "boolean"},
            {"type": "string", "pattern": "^([tT][rR][uU][eE]|[fF][aA][lL][sS][eE])$"},
            _VARIABLE,
        ]
    },
    Scalar.NOTHING: {"type": "null"},
}


def schema() -> Json:
    """The schema of `.dstack/workflows.yaml`."""
    providers = {provider.name: provider for provider in PROVIDERS.values()}
    cases = [_case(name, provider) for name, provider in providers.items()]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Workflows of dstack-mesh",
        "type": "object",
        "properties": {
            "workflows": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": _properties(COMMON),
                    "allOf": [*cases, _case_without_provider()],
                },
            }
        },
        "additionalProperties": False,
    }


def printed() -> str:
    """The schema as it is written into a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def of_shape(shape: Shape) -> Json:
    """The schema of one value."""
    match shape:
        case Scalar():
            return _SCALARS[shape]
        case ListOf(item):
            return {"type": "array", "items": of_shape(item)}
        case Table(rows, needs, pattern, further):
            entries = {key: _of_reader(read) for key, read in rows().items()}
            found: Json = {"type": "object", "properties": entries, "additionalProperties": False}
            if needs:
                found["required"] = list(needs)
            if pattern:
                found["patternProperties"] = {pattern: of_shape(further) if further else {}}
            return found
        case Either(shapes):
            return {"anyOf": [of_shape(each) for each in shapes]}
        case _:
            assert_never(shape)


def _of_reader(read: Callable[..., Any]) -> Json:
    shape = shape_of(read)
    return {} if shape is None else of_shape(shape)


def _case(name: str, provider: Provider) -> Json:
    chosen = {"properties": {"provider": {"const": name}}, "required": ["provider"]}
    return {"if": chosen, "then": _of_provider(provider)}


def _case_without_provider() -> Json:
    chosen = {"anyOf": [{"required": ["provider"]}, {"required": ["template"]}]}
    return {"if": {"not": chosen}, "then": _of_provider(IMAGE_AND_COMMANDS)}


def _of_provider(provider: Provider) -> Json:
    keys = {**COMMON, **provider.keys}
    found: Json = {
        # What is common is described once, for all of them.
        "properties": {**dict.fromkeys(COMMON, True), **_properties(provider.keys)},
        "additionalProperties": False,
    }
    if provider.required:
        found["allOf"] = [_there(provider.keys[name].meaning, keys) for name in provider.required]
    return found


def _there(meaning: str, keys: Mapping[str, Key]) -> Json:
    """One spelling of a key that must be there; a template may bring it."""
    spellings = [spelling for spelling, key in keys.items() if key.meaning == meaning]
    return {"anyOf": [{"required": [spelling]} for spelling in (*spellings, "template")]}


def _properties(keys: Mapping[str, Key]) -> Json:
    return {spelling: _of_key(key) for spelling, key in _sorted(keys.items())}


def _of_key(key: Key) -> Json:
    return {"description": f"As {key.example}", **_of_reader(key.read)}


def _sorted(entries: Iterable[tuple[str, Key]]) -> list[tuple[str, Key]]:
    return sorted(entries, key=lambda entry: entry[0])


if __name__ == "__main__":
    print(printed(), end="")
