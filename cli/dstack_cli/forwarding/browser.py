"""Opens a link in the person's browser, where there is one.

The link holds a token, and the arguments of a browser are everybody's to read: it is given a page
of the person's own that leads there.
"""

import html
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from dstack_mesh.durable import write_durably
from dstack_mesh.home import Home

_PAGE = """<!doctype html><meta charset="utf-8"><title>{name}</title>
<meta http-equiv="refresh" content="0; url={url}"><a href="{url}">{name}</a>
"""


def has_browser() -> bool:
    """Whether this person sits in front of a desktop."""
    wanted = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform == "darwin" or any(os.environ.get(name) for name in wanted)


@contextmanager
def opened(home: Home, name: str, url: str) -> Generator[None]:
    """Opens a link, if a browser can; the page that leads to it is there until the block's end."""
    import webbrowser  # most runs open nothing

    page = home.sockets / f"open-{os.urandom(8).hex()}.html"
    text = _PAGE.format(name=html.escape(name), url=html.escape(url))
    try:
        with suppress(OSError):  # the link was told, whatever the disk and the browser do
            write_durably(page, text.encode(), sync=False)
            webbrowser.open(page.as_uri())
        yield
    finally:
        page.unlink(missing_ok=True)
