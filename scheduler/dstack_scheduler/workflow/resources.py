"""Hardware: every spelling of `resources`. Every number is a minimum, 0 asks for nothing.

A range such as `2..4` is its lower end. The upper end of the memory of a card keeps larger cards
out; that of anything else only says that more is of no use.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.job import MOST_NODES
from dstack_scheduler.workflow.cards import parse_cards, parse_names
from dstack_scheduler.workflow.model import Reader, Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.ranges import Range, read_count, read_sizes
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXT_OR_TEXTS, Either, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import ListNode, MapNode, Node, shorten

MOST_CARDS = 1024
"""Of one job; what asks for more probably names a model."""

_CARDS = Either((Scalar.TEXT, Table(lambda: GPU)))
_NAMED_GPU = re.compile(r"(.+)/gpu\Z", re.IGNORECASE)


@shaped(Table(lambda: RESOURCES, pattern=".+/gpu$", further=_CARDS))
def read_resources(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`resources:`, a mapping; keys such as `v100/gpu` name the model of the card."""
    rows: dict[str, Reader] = dict(RESOURCES)
    if isinstance(node, MapNode):
        for key, _ in node.entries:
            named = _NAMED_GPU.match(key.text)
            if named:
                rows[key.text] = _gpu_named(named[1])
    return scope.walk(workflow, node, rows, "write `resources:` and below it `gpu: 1`")


@shaped(Either((Scalar.NUMBER, Table(lambda: CPU))))
def read_cpus(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`cpu: 4` or `cpu: {count: 4}`."""
    if isinstance(node, MapNode):
        return scope.walk(workflow, node, CPU, "")
    return read_cpu_count(workflow, node, scope)


@shaped(Scalar.NUMBER)
def read_cpu_count(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A number of processors."""
    count = read_count(node, scope)
    return workflow if count is None else _with(workflow, cpus=count.least)


@shaped(Scalar.TEXT)
def read_memory(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`memory: 16GB`."""
    size = read_sizes(node, scope)
    return workflow if size is None else _with(workflow, memory_bytes=size.least)


@shaped(Scalar.TEXT)
def read_shm_size(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`shm_size: 8GB`."""
    size = read_sizes(node, scope)
    return workflow if size is None else _with(workflow, shm_bytes=size.least)


@shaped(Scalar.FLAG)
def read_interruptible(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`interruptible: true`."""
    flag = scope.flag(node)
    return replace(workflow, needs=replace(workflow.needs, interruptible=bool(flag)))


@shaped(_CARDS)
def read_gpu(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`gpu: 2`, `gpu: A100:40GB:2`, or `gpu: {count: 1, name: V100, memory: 16GB}`."""
    return _only_once(workflow, node, scope, "")


@shaped(Scalar.TEXT)
def read_cards(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Cards in one text; what it does not say stays as it is."""
    text = scope.text(node)
    if text is None or scope.left_empty(text, node):
        return workflow
    cards = parse_cards(text)
    if cards is None:
        scope.complain(
            node,
            Code.BAD_NUMBER,
            f'"{scope.key}" asks for no cards: "{shorten(text)}".',
            "write a number, as 1, or NAME:MEMORY:COUNT, as A100:40GB:2",
        )
        return workflow
    if cards.names is not None:
        workflow = _with(workflow, gpu_name=cards.names)
    if cards.memory is not None:
        workflow = _with_card_memory(workflow, cards.memory)
    if cards.number is not None:
        return _with_cards(workflow, cards.number, node, scope)
    return at_least_one(workflow)


@shaped(Scalar.NUMBER)
def read_gpu_count(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A number of cards; name and memory stay as they are."""
    count = read_count(node, scope)
    return workflow if count is None else _with_cards(workflow, count, node, scope)


@shaped(TEXT_OR_TEXTS)
def read_gpu_name(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Models of the cards, any of which will do."""
    items = node.items if isinstance(node, ListNode) else (node,)
    texts = [text for item in items if (text := scope.text(item)) is not None]
    if len(texts) < len(items) or scope.left_empty(",".join(texts), node):
        return workflow
    names = parse_names(",".join(texts))
    if names is None:
        scope.complain(
            node,
            Code.BAD_NAME,
            f'"{shorten(",".join(texts))}" is not the name of a card.',
            "write it as V100, several as [A100, H100]",
        )
        return workflow
    return _with(workflow, gpu_name=names)


@shaped(Scalar.TEXT)
def read_gpu_memory(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Memory of each card."""
    size = read_sizes(node, scope)
    return workflow if size is None else _with_card_memory(workflow, size)


def at_least_one(workflow: Workflow) -> Workflow:
    """The workflow with a card: who names a model or its memory wants one."""
    return workflow if workflow.needs.gpus else _with(workflow, gpus=1)


def settled(workflow: Workflow) -> Workflow:
    """The workflow without wishes about cards if it wants none."""
    if workflow.needs.gpus:
        return workflow
    return _with_card_memory(_with(workflow, gpu_name=""), Range(0))


@shaped(Scalar.NUMBER)
def read_nodes(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`nodes: 2`: how many times the job starts at once, each with all of its resources."""
    count = scope.whole(node)
    if count is not None and not 0 < count <= MOST_NODES:
        message = f"A job runs on 1 to {MOST_NODES} nodes, not on {count}."
        scope.complain(node, Code.BAD_NUMBER, message, "write nodes: 2")
        return workflow
    return replace(workflow, nodes=count or 1)


def _gpu_named(name: str) -> Reader:
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        return _only_once(workflow, node, scope, name)

    return read


def _only_once(workflow: Workflow, node: Node, scope: Scope, name: str) -> Workflow:
    if workflow.needs.gpus:
        scope.complain(
            node,
            Code.SAID_TWICE,
            "The cards of this workflow are given twice.",
            "keep one of them, as gpu: {count: 1, name: V100}",
        )
        return workflow
    if name:
        workflow = _with(workflow, gpu_name=name)
    if isinstance(node, MapNode):
        return settled(scope.walk(at_least_one(workflow), node, GPU, ""))
    return settled(read_cards(workflow, node, scope))


def _with_cards(workflow: Workflow, count: Range, node: Node, scope: Scope) -> Workflow:
    if count.least > MOST_CARDS:
        scope.complain(
            node,
            Code.BAD_NUMBER,
            f"{count.least} is a number of cards here, and more than {MOST_CARDS}.",
            f'for the model write gpu: {{name: "{count.least}"}}',
        )
        return workflow
    return _with(workflow, gpus=count.least)


def _with_card_memory(workflow: Workflow, size: Range) -> Workflow:
    least, most = size
    needs = replace(workflow.needs, gpu_memory_bytes=least, gpu_memory_most_bytes=most)
    return replace(workflow, needs=needs)


def _place(word: str) -> Reader:
    @shaped(Scalar.FLAG)
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        wanted = scope.flag(node)
        if not wanted:
            return workflow
        if workflow.place not in ("", word):
            scope.complain(
                node,
                Code.SAID_TWICE,
                f'"{word}" and "{workflow.place}" exclude each other.',
                "keep one of them",
            )
        return replace(workflow, place=word)

    return read


def _with(
    workflow: Workflow,
    cpus: int | None = None,
    memory_bytes: int | None = None,
    shm_bytes: int | None = None,
    gpus: int | None = None,
    gpu_name: str | None = None,
) -> Workflow:
    """The workflow with the numbers that are known."""
    old = workflow.needs
    needs = replace(
        old,
        cpus=old.cpus if cpus is None else cpus,
        memory_bytes=old.memory_bytes if memory_bytes is None else memory_bytes,
        gpus=old.gpus if gpus is None else gpus,
        gpu_name=old.gpu_name if gpu_name is None else gpu_name,
        shm_bytes=old.shm_bytes if shm_bytes is None else shm_bytes,
    )
    return replace(workflow, needs=needs)


CPU: Mapping[str, Reader] = {"count": read_cpu_count}
"""Keys below `cpu`."""

GPU: Mapping[str, Reader] = {
    "count": read_gpu_count,
    "name": read_gpu_name,
    "memory": read_gpu_memory,
}
"""Keys below `gpu`."""

RESOURCES: Mapping[str, Reader] = {
    "cpu": read_cpus,
    "memory": read_memory,
    "gpu": read_gpu,
    "shm_size": read_shm_size,
    "interruptible": read_interruptible,
    "local": _place("local"),
    "remote": _place("remote"),
    "nodes": read_nodes,
}
"""Keys below `resources`."""
