"""Links in a job's output, made to work where they are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.forwarding.links import Link, Links
from dstack_scheduler.app import App

TOKEN = "0123456789abcdef0123456789abcdef"
LAB = Link(App("lab", path="/lab", query="token={token}", token="TOKEN"), 8888, 9001, TOKEN)
PLAIN = Link(App("bash"), 8000, 8000)
DOCS = Link(App("fastapi", path="/docs"), 7000, 7001)
LINKS = {link.port: link for link in (LAB, PLAIN, DOCS)}
HERE = Links(("ws-2", "10.0.0.7"))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://localhost:8888", f"http://127.0.0.1:9001/lab?token={TOKEN}"),
        ("http://0.0.0.0:8888/", f"http://127.0.0.1:9001/lab?token={TOKEN}"),
        ("http://ws-2:8888/lab?token=" + "*" * 32, f"http://127.0.0.1:9001/lab?token={TOKEN}"),
        ("http://10.0.0.7:8888/lab?token=...", f"http://127.0.0.1:9001/lab?token={TOKEN}"),
        (
            "http://[::1]:8888/tree/a.ipynb?x=1#top",
            f"http://127.0.0.1:9001/tree/a.ipynb?x=1&token={TOKEN}#top",
        ),
        ("(see http://localhost:8000/a,b).", "(see http://127.0.0.1:8000/a,b)."),
        ("https://127.0.0.1:8000/x", "https://127.0.0.1:8000/x"),
        ("HTTP://LOCALHOST:8000/x", "HTTP://127.0.0.1:8000/x"),
        ("at http://0.0.0.0:7000 now", "at http://127.0.0.1:7001/docs now"),
        ("\x1b[32mhttp://0.0.0.0:7000/a\x1b[0m", "\x1b[32mhttp://127.0.0.1:7001/a\x1b[0m"),
        ('"http://localhost:7000/a"', '"http://127.0.0.1:7001/a"'),
    ],
)
def test_a_link_to_an_app_leads_there_from_here(said: str, shown: str) -> None:
    assert HERE.rewritten(said.encode(), LINKS) == shown.encode()


@pytest.mark.parametrize(
    "said",
    [
        "http://localhost:9999/x",
        "http://localhost:88881",
        "http://example.org:8888/",
        "http://localhost/8888",
        "localhost:8888",
        "tcp://localhost:8888",
        "http://mylocalhost:8888/",
        "50% 8000/8888 |####\r",
    ],
)
def test_everything_else_stays_as_it_is(said: str) -> None:
    assert HERE.rewritten(said.encode(), LINKS) == said.encode()


@given(st.binary(max_size=300))
def test_bytes_without_a_link_to_an_app_are_not_touched(data: bytes) -> None:
    if not HERE.ports_in(data) & set(LINKS):
        assert HERE.rewritten(data, LINKS) == data
    assert HERE.rewritten(data, {}) == data


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_around_a_link_stays(before: bytes, after: bytes) -> None:
    shown = HERE.rewritten(before + b" http://0.0.0.0:8000/x " + after, {8000: PLAIN})
    assert shown.startswith(before) and shown.endswith(after)
    assert b" http://127.0.0.1:8000/x " in shown
