"""The run that a tag means, where a command takes a run and nothing of what it kept."""

from collections.abc import Sequence
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.misused import Misused
from dstack_cli.names import close_to, listed
from dstack_cli.picture import RunPicture
from dstack_mesh.faults import Missing


def tagged(tag: str, pictures: Sequence[RunPicture]) -> RunPicture:
    """The run that has the tag; of several repositories, that of the one this folder is of.

    Raises:
        Missing: No run has it.
        Misused: Several have it, and this folder is of none of their repositories.
    """
    found = [one for one in pictures if tag in one.tags]
    if len(found) > 1:
        here = repo_of(Path.cwd())
        found = [one for one in found if one.record.revision.repo == here] or found
    match found:
        case [one]:
            return one
        case []:
            known = dict.fromkeys(each for one in pictures for each in one.tags)
            hint = close_to(tag, known) or "dstack tags"
            raise Missing(f"There is no tag {tag!r}.", "", hint, code="no-such-tag")
        case _:
            raise Misused(
                f"Several repositories have the tag {tag!r}.",
                f"They are {listed(one.record.revision.repo or 'none' for one in found)}.",
                f"give the run's name, as {found[0].record.run_name}",
                code="ambiguous",
            )
