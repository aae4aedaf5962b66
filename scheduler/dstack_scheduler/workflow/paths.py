"""Paths of a workflow: where it works, what it keeps."""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import Either, ListOf, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import MapNode, Node, shorten

ROOT = "/workflow/"
"""Where a container has the repository, and every job had it once."""

_Rows = Mapping[str, Callable[[str, Node, Scope], str]]


@shaped(ListOf(Either((Scalar.TEXT, Table(lambda: _ARTIFACT, needs=("path",))))))
def read_artifacts(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`artifacts:`, a list of folders, as text or as `{path: data}`; each once."""
    items = scope.items(node, "write artifacts: [data]")
    return replace(workflow, artifacts=_folders(items, _ARTIFACT, scope))


@shaped(ListOf(Either((Scalar.TEXT, Table(lambda: _CACHE, needs=("path",))))))
def read_cache(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`cache:`, a list of folders, as text or as `{path: ~/.cache/pip}`; each once."""
    items = scope.items(node, "write cache: [~/.cache/pip]")
    return replace(workflow, cache=_folders(items, _CACHE, scope))


@shaped(Scalar.TEXT)
def read_folder(path: str, node: Node, scope: Scope) -> str:
    """A folder as the plan names it: `./x` and `x/` are `x`; `~/x` and `/x` stay."""
    text = scope.line(node)
    if text is None:
        return path
    clean = normal_path(text)
    if clean is None:
        scope.complain(
            node,
            Code.BAD_PATH,
            f'"{shorten(text)}" leads out of the work directory.',
            "name a folder inside it, as data",
        )
        return path
    if clean in ("", "/", "~") or (clean.startswith("~") and not clean.startswith("~/")):
        scope.complain(
            node,
            Code.BAD_PATH,
            f'"{shorten(text)}" is no folder that can be kept.',
            "name a folder inside it, as data",
        )
        return path
    return clean


@shaped(Scalar.TEXT)
def read_working_dir(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`working_dir: src`, from the root of the repository, which may be written `/workflow`.

    Another absolute one is a folder of the image; for a process, of the machine that runs it.
    """
    text = scope.text(node)
    if text is None:
        return workflow
    clean = normal_path(text)
    if clean is not None and (clean + "/").startswith(ROOT):
        clean = clean.removeprefix(ROOT[:-1]).lstrip("/")
    if clean is None or clean.startswith("~"):
        scope.complain(
            node,
            Code.BAD_PATH,
            f'The working directory "{shorten(text)}" is outside of the repository.',
            "name a folder of the repository, as src, or an absolute one, as /app",
        )
        return workflow
    return replace(workflow, working_dir=clean)


@shaped(Scalar.TEXT)
def read_home_dir(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`home_dir: /home/app`: what `~` means in the image."""
    text = scope.line(node)
    if text is None:
        return workflow
    if not text.startswith("/") or normal_path(text) is None:
        scope.complain(
            node,
            Code.BAD_PATH,
            f'The home directory "{shorten(text)}" is not an absolute path.',
            "write it from the root, as /root",
        )
        return workflow
    return replace(workflow, home_dir=posixpath.normpath(text))


def normal_path(text: str) -> str | None:
    """A path without `./` and needless slashes; "" for here, None if it leads out of here."""
    if not text.strip():
        return ""
    if text.strip().startswith("~/"):
        below = normal_path(text.strip()[2:].lstrip("/"))
        return None if below is None else f"~/{below}".rstrip("/")
    clean = posixpath.normpath(text.strip())
    if clean == ".." or clean.startswith("../") or "\0" in clean:
        return None
    return "" if clean == "." else "/" + clean.lstrip("/") if clean.startswith("/") else clean


def _folders(items: Iterable[Node], rows: _Rows, scope: Scope) -> tuple[str, ...]:
    paths: dict[str, None] = {}
    for item in items:
        path = scope.walk("", item, rows, "") if isinstance(item, MapNode) else None
        if path is None:
            path = read_folder("", item, scope)
        elif not path and not _has_path(item):
            scope.complain(item, Code.MISSING_KEY, "The folder has no path.", "add path: data")
        if path:
            paths[path] = None
    return tuple(paths)


def _has_path(node: Node) -> bool:
    return isinstance(node, MapNode) and any(key.text == "path" for key, _ in node.entries)


@shaped(Scalar.FLAG)
def _read_mount(path: str, node: Node, scope: Scope) -> str:
    # Artifacts are saved while the job runs in any case, which is what a mount was for.
    scope.flag(node)
    return path


_ARTIFACT: _Rows = {"path": read_folder, "mount": _read_mount}
"""Keys of an artifact."""

_CACHE: _Rows = {"path": read_folder}
"""Keys of a folder that is kept between runs."""
