"""What stands for a run has one part or three."""

import pytest

from dstack_cli.misused import Misused
from dstack_cli.reference import Reference, read_reference


@pytest.mark.parametrize(
    ("text", "means"),
    [
        (":v1", Reference("", "", "v1")),
        ("prepare:v1", Reference("", "prepare", "v1")),
        ("acme/corpora/prepare", Reference("acme/corpora", "prepare", "")),
        ("acme/corpora/prepare:v1", Reference("acme/corpora", "prepare", "v1")),
        (":acme/corpora/v1", Reference("acme/corpora", "", "v1")),
        ("calm-ibex-1", None),
        ("@2", None),
    ],
)
def test_every_form_is_read(text: str, means: Reference | None) -> None:
    assert read_reference(text) == means


@pytest.mark.parametrize(
    "text", [":", "a/b", ":a/b", "a/b/c/d", "prepare:", "prepare:a/b/c", "/a/b", "a//b", ":a/b/"]
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(Misused) as refused:
        read_reference(text)
    assert refused.value.code == "bad-reference"
