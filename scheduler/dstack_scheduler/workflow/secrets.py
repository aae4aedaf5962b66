"""What a workflow says of secrets: which ones the job gets, and what its image is pulled with."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from dstack_scheduler.secret import MOST_NAMES, RegistryAuth, is_placeholder, why_no_name
from dstack_scheduler.workflow.model import Workflow
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.shapes import TEXTS, Scalar, Table, shaped
from dstack_scheduler.workflow.tree import MapNode, Node, find, shorten


@shaped(TEXTS)
def read_secrets(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`secrets:`, a list of names."""
    names: dict[str, None] = {}
    for item in scope.items(node, "write secrets: [NAME]")[:MOST_NAMES]:
        name = scope.line(item)
        if name is None:
            continue
        why = why_no_name(name)
        if why:
            message = f'"{shorten(name)}" cannot be the name of a secret.'
            scope.complain(item, Code.BAD_NAME, message, f"choose another: {why}")
        names[name] = None
    return replace(workflow, secrets=tuple(names))


@shaped(Table(lambda: _AUTH, needs=("username", "password")))
def read_registry_auth(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
    """`registry_auth:`, a user and a password that is a secret."""
    example = "write registry_auth: {username: ana, password: '${{ secrets.REGISTRY }}'}"
    auth = scope.walk(RegistryAuth("", ""), node, _AUTH, example)
    if isinstance(node, MapNode):
        for name in _AUTH:
            if find(node, (name,)) is None:
                scope.complain(node, Code.MISSING_KEY, f'"registry_auth" lacks "{name}".', example)
    return replace(workflow, registry_auth=auth)


@shaped(Scalar.TEXT)
def _read_username(auth: RegistryAuth, node: Node, scope: Scope) -> RegistryAuth:
    return replace(auth, username=replace(scope, fills_secrets=True).line(node) or "")


@shaped(Scalar.TEXT)
def _read_password(auth: RegistryAuth, node: Node, scope: Scope) -> RegistryAuth:
    password = replace(scope, fills_secrets=True).line(node)
    if password is None:
        return auth
    if not is_placeholder(password):
        scope.complain(
            node,
            Code.BAD_SECRET,
            "A password in plain would be in every record of the run.",
            "store it with `dstack secrets add REGISTRY`, and write '${{ secrets.REGISTRY }}'",
        )
    return replace(auth, password=password.strip())


_AUTH: Mapping[str, Callable[[RegistryAuth, Node, Scope], RegistryAuth]] = {
    "username": _read_username,
    "password": _read_password,
}
