"""What a person opens of a job: an app behind one of the job's ports."""

from dstack_mesh.frozen import frozen

TOKEN = "{token}"
"""Stands in an app's query for the token, which no record holds."""

LONGEST = 255
"""Characters of a name, a path or a query."""


@frozen
class App:
    """An app of a job.

    Attributes:
        name: As `dstack app` calls it: "lab", or "bash0" for the first of several ports.
        port: Index of its port among the job's.
        local: Port that it must have on the person's machine; 0 for the job's own, or the next.
        path: Of its first page, as "/lab".
        query: Of its first page; `TOKEN` stands for the token.
        token: Variable in which the job finds the token; empty for an app without one.
        web: It speaks HTTP, so that its link counts once a request is answered.
        ssh: It speaks SSH; the agent prepares the server, with keys made from the token.
        editor: A link for an editor is told as well.
    """

    name: str
    port: int = 0
    local: int = 0
    path: str = ""
    query: str = ""
    token: str = ""
    web: bool = False
    ssh: bool = False
    editor: bool = False


@frozen
class Login:
    """Where the SSH server of a job lets a person in: as whom, and in which folder she begins."""

    user: str
    folder: str


def first_page(app: App, token: str) -> str:
    """Path and query of an app's first page, token included."""
    query = app.query.replace(TOKEN, token)
    return (app.path or "/") + (f"?{query}" if query else "")


def plain_apps(
    name: str, ports: tuple[int, ...], local_ports: tuple[int, ...] = ()
) -> tuple[App, ...]:
    """An app for each port of a job whose provider knows nothing of what listens there."""
    local = (*local_ports, *(0 for _ in ports[len(local_ports) :]))
    return tuple(
        App(f"{name}{index}" if len(ports) > 1 else name, index, local[index])
        for index in range(len(ports))
    )
