"""Gives names to runs and takes them back."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dstack_cli.here import repo_of
from dstack_cli.misused import Misused
from dstack_cli.names import close_to, listed
from dstack_cli.naming_tags import say_tag
from dstack_cli.output.forms import chosen
from dstack_cli.output.port import Listing, Output
from dstack_cli.output.table import Column, Table
from dstack_cli.output.words import ago, rfc3339
from dstack_cli.picture import RunPicture, current_tags, put_together
from dstack_cli.reach import Private, carry_out, chosen_run, reaching
from dstack_cli.reference import Reference, read_reference
from dstack_cli.remembered import recall
from dstack_mesh.faults import Conflict, Missing
from dstack_mesh.home import Home
from dstack_scheduler.job import TagRecord
from dstack_scheduler.resolve import merged_tags, repository_of, rival_tags

SCHEMA = "dstack.tags/v1"

Rivals = Mapping[tuple[str, str], Sequence[TagRecord]]
"""Claims of a repository's tag that lost against one that did not know of them."""

_LIKE_A_RUN = re.compile(r"-\d+\Z|\A@")

_TAG = re.compile(r"[^\s:/,;@-][^\s:/,;]*\Z")


def check_tag(tag: str) -> str:
    """The tag, if it can be one. Raises Misused."""
    if _TAG.match(tag) is None:
        raise Misused(
            f"{tag!r} cannot be a tag.",
            "It has none of  : / , ; @  and no blanks, and does not begin with a dash.",
            "as v1 or latest",
            code="bad-tag",
        )
    return tag


def is_folder(word: str) -> bool:
    """Whether a word means a folder where a run could be meant: runs have no slash in their names
    and end in a number."""
    return Path(word).is_dir() and ("/" in word or not _LIKE_A_RUN.search(word))


def give(home: Home, run: str, tag: str | None) -> None:
    """Names a run. If only the second word is a run, the two were swapped."""

    async def work() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            listings = await reach.listings()
            pictures = put_together(listings, recall(home))
            picture, name = _sorted_out(run, tag, pictures)
            record = picture.record
            taken = [
                one
                for one in current_tags(listing for _, listing in listings)
                if (one.repo, one.tag) == (record.revision.repo, name)
            ]
            if taken and taken[0].run_id == record.run_id:
                raise Conflict(
                    f"{record.run_name} has the tag {name!r} already.", "", "dstack tags"
                )
            place = (record.revision.repo, name)
            before = merged_tags(listing for _, listing in listings).get(place)
            statement = TagRecord(
                *(*place, record.run_id, record.run_name, datetime.now(UTC)),
                over=before.at if before is not None else None,
            )
            await say_tag(reach, statement)
            output = chosen()
            if taken:
                output.talk(f"{name!r} was {taken[0].run_name} before.")
            if not picture.status.ended:
                output.talk(f"{record.run_name} goes on; what it keeps will be behind :{name}.")
            output.talk(f"{record.run_name} is :{name} now.  dstack ls :{name}")

    carry_out(work())


def take_back(home: Home, name: str) -> None:
    """Takes a tag back, or all tags of a run."""

    async def work() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            listings = await reach.listings()
            held = current_tags(listing for _, listing in listings)
            meant = _meant(name, held, put_together(listings, recall(home)))
            for one in meant:
                now = datetime.now(UTC)
                await say_tag(reach, TagRecord(one.repo, one.tag, None, one.run_name, now, now))
                chosen().talk(f"{one.run_name} is :{one.tag} no more.")

    carry_out(work())


def show(home: Home, output: Output) -> None:
    """Lists the names that hold now."""

    async def work() -> None:
        async with reaching(home, Private.IF_HISTORY) as reach:
            listings = await reach.listings()
        told = [listing for _, listing in listings]
        tags, rivals = current_tags(told), rival_tags(told)
        output.listing(tags_listing(tags, rivals))
        for one in tags:
            for line in _rival_lines(one, rivals.get((one.repo, one.tag), ())):
                output.talk(line)

    carry_out(work())


def _sorted_out(
    run: str, tag: str | None, pictures: Sequence[RunPicture]
) -> tuple[RunPicture, str]:
    names = {one.record.run_name for one in pictures}
    if tag is not None and tag in names and run not in names and not run.startswith("@"):
        return chosen_run(tag, pictures), check_tag(run)
    try:
        picture = chosen_run(run, pictures)
    except Missing as missing:
        if tag is None:
            raise
        try:
            return chosen_run(tag, pictures), check_tag(run)
        except Missing:
            raise missing from None
    return picture, check_tag(tag or picture.record.run_name)


def _meant(
    name: str, held: Sequence[TagRecord], pictures: Sequence[RunPicture]
) -> Sequence[TagRecord]:
    reference = read_reference(name) or Reference(tag=name)
    name = reference.tag or name
    named = [one for one in held if one.tag == reference.tag]
    if any(one.run_name == name for one in named):  # the tag of a run that was given none
        return [one for one in held if one.run_id == named[0].run_id]
    here = [one for one in named if one.repo == repo_of(Path.cwd())] or named
    if reference.repo:
        repo = repository_of(reference.repo, {one.repo for one in held})
        here = [one for one in named if one.repo == repo]
    if len(here) == 1:
        return here
    if here:
        repos = listed(one.repo or "no repository" for one in here)
        raise Misused(
            f"Several repositories have the tag {name!r}.",
            f"They are {repos}.",
            f"as :OWNER/REPO/{name}",
            code="ambiguous",
        )
    try:
        run_id = chosen_run(name, pictures).record.run_id
    except Missing:
        hint = close_to(name, [one.tag for one in held]) or "dstack tags"
        what = f"There is no tag and no run {name!r}."
        raise Missing(what, "", hint, code="no-such-tag") from None
    of_run = [one for one in held if one.run_id == run_id]
    if not of_run:
        raise Missing(f"{name} has no tag.", "", "dstack tags", code="no-such-tag")
    return of_run


def _rival_lines(tag: TagRecord, rivals: Sequence[TagRecord]) -> Iterator[str]:
    """Who claimed a name at the same time, who has it and why."""
    for other in rivals:
        yield (
            f"{tag.tag!r} is claimed twice: {tag.run_name} has it, named at {rfc3339(tag.at)};"
            f" {other.run_name} was at {rfc3339(other.at)}, and neither knew of the other."
            f" The later one counts; settle it: dstack tag RUN {tag.tag}"
        )


def tags_listing(tags: Sequence[TagRecord], rivals: Rivals) -> Listing:
    """Names and their runs, and who else claims a name."""
    now = datetime.now(UTC)
    return Listing(
        schema=SCHEMA,
        items=[
            {
                "tag": one.tag,
                "run": one.run_name,
                "run_id": one.run_id,
                "repo": one.repo,
                "created_at": rfc3339(one.at),
                "rivals": [
                    {"run": other.run_name, "run_id": other.run_id, "created_at": rfc3339(other.at)}
                    for other in rivals.get((one.repo, one.tag), ())
                ],
            }
            for one in tags
        ],
        table=Table(
            (Column("TAG"), Column("CREATED", 2), Column("RUN"), Column("REPO", 3)),
            tuple((one.tag, ago(one.at, now), one.run_name, one.repo) for one in tags),
        ),
        names=[one.tag for one in tags],
        empty="There are no tags. Make one: dstack tag RUN TAG",
    )
