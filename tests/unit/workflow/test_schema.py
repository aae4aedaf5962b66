"""The schema for editors says what the parser does: it is made of the same tables."""

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from dstack_scheduler.providers.docker import IMAGE_AND_COMMANDS
from dstack_scheduler.providers.registry import PROVIDERS
from dstack_scheduler.workflow.dependencies import read_chain
from dstack_scheduler.workflow.keys import COMMON
from dstack_scheduler.workflow.resources import GPU, RESOURCES
from dstack_scheduler.workflow.schema import FILE, MODELINE, printed, schema
from dstack_scheduler.workflow.shapes import Either, ListOf, Shape, Table, shape_of
from support.workflow_files import codes_of, project_of

is_valid: Callable[[Any], bool] = jsonschema.Draft7Validator(schema()).is_valid  # pyright: ignore

GOOD = """
provider: bash, commands: [a, b]
provider: bash, commands: a
provider: bash, commands: [a], resources: {cpu: {count: 2..4}, memory: 16GB.., gpu: $n}
provider: bash, commands: [a], resources: {v100/gpu: 1, interruptible: true}
provider: bash, commands: [a], resources: {gpu: {count: 1, name: [A, B], memory: 1GB..2GB}}
provider: bash, commands: [a], resources: {gpu: A100:40GB:2, local: 'true'}
provider: bash, commands: [a], env: [A=1, B], artifacts: [x, {path: y, mount: true}]
provider: bash, commands: [a], environment: {A: 1, B: }, deps: [x, {tag: y}]
provider: bash, commands: [a], depends-on: {workflows: [y], repo: {include: [src]}}
provider: bash, commands: [a], cache: [~/x, {path: y}], retry: {attempts: 3, on_events: lost}
provider: bash, commands: [a], retry: 3, max_duration: 2h, idle_timeout: off
provider: bash, commands: [a], secrets: [A], gpu: 1, working_dir: src, help: x
provider: python, file: a.py, args: [--lr, 0.1], python: 3.10, requirements: r.txt
provider: python, python_script: a.py, version: 3.11, before_run: [b]
provider: docker, image: x, entrypoint: [a], ports: 2, home_dir: /root
provider: docker, image: x, ports: [8000, '8080:18080']
provider: docker, image: x, registry_auth: {username: a, password: '${{ secrets.B }}'}
image: x, commands: [a]
template: {image: x, commands: [a]}
"""
BAD = """
provider: bash
provider: bash, commands: [a], comands: [b]
provider: bash, commands: {a: b}
provider: bash, commands: [[a]]
provider: bash, commands: [a], resources: {gpus: 1}
provider: bash, commands: [a], resources: {cpu: many}
provider: bash, commands: [a], resources: {interruptible: maybe}
provider: bash, commands: [a], resources: {gpu: {number: 1}}
provider: bash, commands: [a], env: 3
provider: bash, commands: [a], artifacts: x
provider: bash, commands: [a], artifacts: [{mount: true}]
provider: bash, commands: [a], deps: {workflow: x}
provider: bash, commands: [a], depends-on: {workflow: [x]}
provider: bash, commands: [a], cache: [{path: x, mount: true}]
provider: bash, commands: [a], home_dir: /root
provider: python, args: x
provider: python, file: [a]
provider: docker
provider: docker, image: x, registry_auth: {username: a}
image: x
"""


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def both(line: str) -> tuple[bool, bool]:
    """Whether the schema and the parser take a workflow."""
    text = f"workflows:\n- {{name: x, {line}}}\n- {{name: y, provider: bash, commands: [a]}}\n"
    value: Any = yaml.safe_load(text)
    return is_valid(value), not codes_of(project_of(text, "variables: {x: {n: 1}}"), "x")


@pytest.mark.parametrize("line", lines(GOOD))
def test_what_the_parser_takes_an_editor_takes(line: str) -> None:
    assert both(line) == (True, True)


@pytest.mark.parametrize("line", lines(BAD))
def test_what_an_editor_marks_the_parser_refuses(line: str) -> None:
    assert both(line) == (False, False)


def test_the_example_of_every_key_is_one() -> None:
    properties: Mapping[str, Any] = schema()["properties"]["workflows"]["items"]["properties"]
    for name, key in COMMON.items():
        value: Any = yaml.safe_load(key.example)
        jsonschema.validate(value[key.example.partition(":")[0]], properties[name])


def test_every_reader_of_our_tables_says_what_it_reads() -> None:
    keys = {**COMMON, **IMAGE_AND_COMMANDS.keys}
    for provider in PROVIDERS.values():
        keys |= provider.keys
    readers = [key.read for key in keys.values()]
    silent = {name for name, key in keys.items() if shape_of(key.read) is None}
    assert silent == set()
    tables = [rows for read in readers if (shape := shape_of(read)) for rows in tables_in(shape)]
    for rows in (*tables, RESOURCES, GPU):
        assert {name for name, read in rows.items() if shape_of(read) is None} == set()


def test_a_reader_that_does_not_say_would_be_found() -> None:
    """The negative control of the test above."""
    shape = shape_of(read_chain)
    assert shape is not None
    assert {"workflows", "repo", "include"} <= {key for rows in tables_in(shape) for key in rows}
    assert shape_of(lambda: None) is None


def tables_in(shape: Shape) -> list[Mapping[str, Any]]:
    """Every table of keys at and below a shape."""
    match shape:
        case ListOf(item):
            return tables_in(item)
        case Either(shapes):
            return [rows for each in shapes for rows in tables_in(each)]
        case Table(rows):
            below = [shape_of(read) for read in rows().values()]
            return [rows(), *(inner for each in below if each for inner in tables_in(each))]
        case _:
            return []


def test_the_schema_is_one_and_stands_beside_the_file_that_names_it() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    assert MODELINE.endswith(f"$schema={FILE}")
    assert printed().startswith("{\n")
