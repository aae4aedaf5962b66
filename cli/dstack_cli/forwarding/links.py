"""Links in a job's output, made to work where they are read. Pure; the log itself keeps its bytes.

A job knows its app as `http://localhost:PORT`, and here it is another port, or another host. Only
links to the job's own ports are touched. Where the app has a token, the link gets it: the log has
stars in its place.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from dstack_mesh.frozen import frozen
from dstack_scheduler.app import App, Login, first_page

_LOOPBACKS = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]")
_REST = rb"""[^\x00-\x20\x7f"'<>`\\]*"""
_TRAILING = b".,;:!?)]}'"


@frozen
class Link:
    """An app as it is reached from here.

    Attributes:
        port: As the job knows it.
        local: On this machine.
        login: Where it lets a person in, if it speaks SSH.
        command: What is typed to get in; empty for what a browser opens.
        editor: Link that opens it in an editor; empty without one.
        include: Line of ~/.ssh/config that an editor needs; empty if it is there.
    """

    app: App
    port: int
    local: int
    token: str = ""
    login: Login | None = None
    command: str = ""
    editor: str = ""
    include: str = ""

    @property
    def url(self) -> str:
        """Its first page, token included."""
        if self.login is not None:
            return f"ssh://{self.login.user}@127.0.0.1:{self.local}"
        return f"http://127.0.0.1:{self.local}{first_page(self.app, self.token)}"


class Links:
    """The links of one job.

    Args:
        hosts: Names under which the job's output may have its machine.
    """

    def __init__(self, hosts: tuple[str, ...]) -> None:
        names = {host.encode() for host in (*_LOOPBACKS, *hosts) if host}
        joined = b"|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        self._pattern = re.compile(
            rb"(https?)://(?:%s):([0-9]{1,5})(?![0-9])(%s)" % (joined, _REST), re.IGNORECASE
        )

    def ports_in(self, data: bytes) -> set[int]:
        """Ports of links in what a job wrote."""
        if b"://" not in data:
            return set()
        return {int(match[2]) for match in self._pattern.finditer(data)}

    def rewritten(self, data: bytes, links: Mapping[int, Link]) -> bytes:
        """What a job wrote, with its links leading there from here; `links` by the job's ports."""
        if b"://" not in data or not links:
            return data

        def replaced(match: re.Match[bytes]) -> bytes:
            link = links.get(int(match[2]))
            if link is None:
                return match[0]
            rest = match[3].rstrip(_TRAILING)
            # Jupyter writes `token=...` where the token was given to it.
            after = b"" if rest.endswith(b"=") else match[3][len(rest) :]
            page = _page(rest.decode("utf-8", "surrogateescape"), link)
            head = f"{match[1].decode()}://127.0.0.1:{link.local}{page}"
            return head.encode("utf-8", "surrogateescape") + after

        return self._pattern.sub(replaced, data)


def _page(rest: str, link: Link) -> str:
    """Path, query and fragment; the app's own first page where the link names none."""
    if rest in ("", "/"):
        return first_page(link.app, link.token) if link.app.path or link.app.query else rest
    if not link.app.query:
        return rest
    before, mark, fragment = rest.partition("#")
    path, _, query = before.partition("?")
    own = first_page(link.app, link.token).partition("?")[2]
    ours = {name for name, _ in parse_qsl(own)}
    kept = [each for each in query.split("&") if each and each.partition("=")[0] not in ours]
    return f"{path}?{'&'.join([*kept, own])}{mark}{fragment}"
