"""What a job runs: commands, scripts and their arguments, images, the Python, the ports."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace

from dstack_scheduler.images import IMAGES, is_ours, own_image, own_images
from dstack_scheduler.job import MOST_PORTS
from dstack_scheduler.prebuild import Prebuild
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code, did_you_mean, one_of
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXT_OR_TEXTS, TEXTS, Either, Scalar, shaped
from dstack_scheduler.workflow.tree import ListNode, Node, ScalarNode, is_null, shorten

PYTHONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
"""Versions that may be asked for; which of them a machine has, its agent says."""

_PORT = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?\Z")


@shaped(Scalar.TEXT)
def read_help(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    return replace(workflow, help=scope.shell(node) or "")


@shaped(TEXT_OR_TEXTS)
def read_commands(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A list of commands, or one text that is one command however many lines it has."""
    return replace(workflow, commands=_commands(node, scope))


@shaped(TEXT_OR_TEXTS)
def read_setup(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Commands before the main one."""
    return replace(workflow, setup=_commands(node, scope))


@shaped(Either((Scalar.TEXT, Scalar.NOTHING)))
def read_prebuild(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`prebuild: force` or `never`; nothing for what is usual."""
    text = "" if is_null(node) else scope.line(node)
    word = (text or "").strip().lower()
    known = {one.value: one for one in Prebuild}
    if word not in known:
        words = [one for one in known if one]
        message = f'"prebuild" must be force or never, not "{shorten(word)}".'
        scope.complain(node, Code.BAD_NAME, message, did_you_mean(word, words, "remove the line"))
    return replace(workflow, prebuild=known.get(word, Prebuild.USUAL))


@shaped(Scalar.TEXT)
def read_script(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """The script's path, from the working directory."""
    return replace(workflow, script=scope.line(node) or "")


@shaped(TEXT_OR_TEXTS)
def read_args(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Arguments of the script: text goes to the shell as it is, items of a list are quoted."""
    if isinstance(node, ListNode):
        words = [scope.shell(item) for item in node.items]
        return replace(workflow, arguments=shlex.join(word for word in words if word is not None))
    return replace(workflow, arguments=scope.shell(node) or "")


@shaped(Scalar.TEXT)
def read_requirements(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Path of a file of pip requirements."""
    return replace(workflow, requirements=scope.line(node) or "")


@shaped(Scalar.TEXT)
def read_image(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A container image."""
    image = scope.line(node)
    if image is not None and len(image.split()) != 1:
        scope.complain(
            node,
            Code.BAD_NAME,
            f'"{shorten(image)}" is not the name of an image.',
            "write it without spaces, as python:3.11",
        )
        return workflow
    if image is not None and is_ours(image) and own_image(image) is None:
        scope.complain(
            node,
            Code.BAD_NAME,
            f'There is no image "{shorten(image)}" of ours.',
            did_you_mean(image, (*IMAGES, *own_images())),
        )
        return workflow
    return replace(workflow, image=image or "")


@shaped(TEXT_OR_TEXTS)
def read_entrypoint(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """What the image starts instead of its own: a list, or text split as a shell would."""
    if isinstance(node, ListNode):
        words = [scope.shell(item) for item in node.items]
        return replace(workflow, entrypoint=tuple(word for word in words if word is not None))
    text = scope.shell(node)
    if text is None:
        return workflow
    try:
        return replace(workflow, entrypoint=tuple(shlex.split(text)))
    except ValueError:
        scope.complain(
            node,
            Code.BAD_QUOTING,
            f'The quotes of "{shorten(text)}" do not match.',
            "close the quote, or write a list",
        )
        return workflow


@shaped(Scalar.TEXT)
def read_python(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A version of Python as it was written: 3.10 without quotes is 3.10."""
    text = scope.text(node)
    if not text or text in PYTHONS:
        return replace(workflow, python=text or "")
    scope.complain(
        node,
        Code.BAD_PYTHON,
        f'There is no Python "{shorten(text)}" to run with.',
        f"choose one of {one_of(PYTHONS)}",
    )
    return workflow


@shaped(Either((Scalar.NUMBER, TEXTS)))
def read_ports(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A number of free ports, or a list of ports of the job, each as `8000` or `8000:18000`."""
    if not isinstance(node, ListNode):
        count = scope.whole(node)
        if count is not None and count > MOST_PORTS:
            scope.complain(
                node,
                Code.BAD_PORT,
                f"{count} is a number of ports here, and more than {MOST_PORTS}.",
                f"for the port {count} write ports: [{count}]",
            )
            return workflow
        return replace(workflow, ports=(0,) * (count or 0), local_ports=())
    return _with_ports(workflow, _ports(node.items, scope))


def read_port_flags(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`-p 2` is a number of free ports; `-p 8000` and `-p 8000:18000` add one or replace it."""
    items = node.items if isinstance(node, ListNode) else (node,)
    if len(items) == 1 and isinstance(items[0], ScalarNode) and is_number_of_ports(items[0].text):
        return read_ports(workflow, items[0], scope)
    return read_more_ports(workflow, node, scope)


def read_more_ports(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Ports of the command line over those of the file, by the port of the job."""
    items = node.items if isinstance(node, ListNode) else (node,)
    local = (*workflow.local_ports, *(0 for _ in workflow.ports[len(workflow.local_ports) :]))
    held = list(zip(workflow.ports, local, strict=True))
    for port in _ports(items, scope):
        places = [at for at, (app, _) in enumerate(held) if app == port[0]]
        if places:
            held[places[0]] = port
        else:
            held.append(port)
    return _with_ports(workflow, held)


def is_number_of_ports(text: str) -> bool:
    """Whether a word of the command line is a number of ports, and not a port."""
    return text.isdecimal() and int(text) <= MOST_PORTS


def _with_ports(workflow: Workflow, ports: Sequence[tuple[int, int]]) -> Workflow:
    return replace(
        workflow,
        ports=tuple(port for port, _ in ports),
        local_ports=tuple(local for _, local in ports),
    )


def _ports(nodes: Sequence[Node], scope: Scope) -> list[tuple[int, int]]:
    """Ports of the job, each with the one that it must have on the person's machine, or 0."""
    return [port for node in nodes if (port := _port(node, scope)) is not None]


def _port(node: Node, scope: Scope) -> tuple[int, int] | None:
    text = scope.text(node)
    if text is None:
        return None
    match = _PORT.match(text.strip())
    if match and all(0 < int(port) < 65536 for port in match.groups() if port):
        return int(match[1]), int(match[2] or 0)
    scope.complain(
        node,
        Code.BAD_PORT,
        f'"{shorten(text)}" is not a port.',
        "write a number from 1 to 65535, or APP:LOCAL",
    )
    return None


def _commands(node: Node, scope: Scope) -> tuple[str, ...]:
    if isinstance(node, ScalarNode):
        items: tuple[Node, ...] = (node,)
    else:
        items = scope.items(node, "write commands: [python train.py]")
        if not items and isinstance(node, ListNode):
            scope.complain_empty(node)
    return tuple(text for item in items if (text := _command(item, scope)) is not None)


def _command(node: Node, scope: Scope) -> str | None:
    text = scope.shell(node)
    if text is not None and not text.strip():
        scope.complain_empty(node)
        return None
    return text and text.strip("\n")
