"""What `ls`, `cp`, `pull`, `untag` and others take for a run: its name, or what stands for it.

`:v1` and `prepare:v1` mean tags of the repository one is in, `:owner/repo/v1` and
`owner/repo/prepare:v1` those of another one, and `owner/repo/prepare` the newest done run of that
workflow there. Paths have one part or three.
"""

from dstack_cli.misused import Misused
from dstack_mesh.frozen import frozen


@frozen
class Reference:
    """Attributes:
    repo: "owner/repo"; "" for the repository one is in.
    workflow: "" for the whole run.
    tag: "" for the newest done run of the workflow.
    """

    repo: str = ""
    workflow: str = ""
    tag: str = ""


def read_reference(text: str) -> Reference | None:
    """What a text stands for; None if it is a run's name. Raises Misused."""
    if ":" not in text and "/" not in text:
        return None
    name, colon, tag = text.partition(":")
    *repo, last = (name or tag).split("/")
    parts = [*repo, last, tag] if name and colon else [*repo, last]
    if len(repo) not in (0, 2) or not all(parts) or (name and "/" in tag):
        raise Misused(
            f"{text!r} names no run.",
            "A repository is named by its owner and its name, before one more name.",
            "as :v1, prepare:v1, owner/repo/prepare or :owner/repo/v1",
            code="bad-reference",
        )
    return Reference("/".join(repo), last if name else "", tag if name else last)
