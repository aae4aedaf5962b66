"""Hardware: every spelling of `resources`. Every number is a minimum, 0 asks for nothing."""

import re
from collections.abc import Mapping
from dataclasses import replace

from dstack_scheduler.needs import Needs
from dstack_scheduler.workflow.model import Reader, Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.sizes import read_size
from dstack_scheduler.workflow.tree import MapNode, Node

_NAMED_GPU = re.compile(r"(.+)/gpu\Z", re.IGNORECASE)


def read_resources(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`resources:`, a mapping; keys such as `v100/gpu` name the model of the card."""
    rows: dict[str, Reader] = dict(RESOURCES)
    if isinstance(node, MapNode):
        for key, _ in node.entries:
            named = _NAMED_GPU.match(key.text)
            if named:
                rows[key.text] = _gpu_named(named[1])
    return scope.walk(workflow, node, rows, "write `resources:` and below it `gpu: 1`")


def read_cpus(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`cpu: 4` or `cpu: {count: 4}`."""
    if isinstance(node, MapNode):
        return scope.walk(workflow, node, {"count": read_cpus}, "")
    return _with(workflow, cpus=scope.whole(node))


def read_memory(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`memory: 16GB`."""
    return _with(workflow, memory_bytes=read_size(node, scope))


def read_shm_size(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`shm_size: 8GB`."""
    return _with(workflow, shm_bytes=read_size(node, scope))


def read_interruptible(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`interruptible: true`."""
    flag = scope.flag(node)
    return replace(workflow, needs=replace(workflow.needs, interruptible=bool(flag)))


def read_gpu(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`gpu: 2` or `gpu: {count: 1, name: V100, memory: 16GB}`, every part optional."""
    return _only_once(workflow, node, scope, "")


def read_gpu_count(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A number of cards; name and memory stay as they are."""
    return _with(workflow, gpus=scope.whole(node))


def read_gpu_name(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """A model of the cards."""
    return _with(workflow, gpu_name=scope.text(node))


def read_gpu_memory(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """Memory of each card."""
    return _with(workflow, gpu_memory_bytes=read_size(node, scope))


def at_least_one(workflow: Workflow) -> Workflow:
    """The workflow with a card: who names a model or its memory wants one."""
    return workflow if workflow.needs.gpus else _with(workflow, gpus=1)


def settled(workflow: Workflow) -> Workflow:
    """The workflow without wishes about cards if it wants none."""
    if workflow.needs.gpus:
        return workflow
    return _with(workflow, gpu_name="", gpu_memory_bytes=0)


def read_nodes(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`nodes: 1`; more than one machine for a job is not carried out yet."""
    count = scope.whole(node)
    if count == 0:
        scope.complain(node, Code.BAD_NUMBER, "A job needs at least one machine.", "write nodes: 1")
    if count is not None and count > 1:
        scope.complain(
            node,
            Code.NOT_SUPPORTED_YET,
            f"This version does not run a job on {count} machines at once.",
            "write nodes: 1, or remove the line",
        )
    return workflow


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
    return settled(read_gpu_count(workflow, node, scope))


def _place(word: str) -> Reader:
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
    gpu_memory_bytes: int | None = None,
) -> Workflow:
    """The workflow with the numbers that are known."""
    old = workflow.needs
    needs = Needs(
        cpus=old.cpus if cpus is None else cpus,
        memory_bytes=old.memory_bytes if memory_bytes is None else memory_bytes,
        gpus=old.gpus if gpus is None else gpus,
        gpu_name=old.gpu_name if gpu_name is None else gpu_name,
        gpu_memory_bytes=old.gpu_memory_bytes if gpu_memory_bytes is None else gpu_memory_bytes,
        shm_bytes=old.shm_bytes if shm_bytes is None else shm_bytes,
        interruptible=old.interruptible,
    )
    return replace(workflow, needs=needs)


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
