"""What a run kept: its artifacts as folders and files, by the paths that the workflow names."""

from collections.abc import Sequence
from datetime import datetime

from dstack_cli.misused import Misused
from dstack_cli.names import close_to, listed
from dstack_cli.picture import RunPicture, current_tags
from dstack_cli.reference import Reference, read_reference
from dstack_mesh.faults import Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.ids import Digest, PeerId
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import ArtifactSaved, JobRecord, JobState, TagRecord
from dstack_scheduler.resolve import LATEST, repositories, repository_of


@frozen
class KeptArtifact:
    """An artifact and who has it.

    Attributes:
        path: As the workflow names it, without "./" and a "/" at the end.
        holders: Agents that have all its bytes, the one that ran the job first.
        at: When it was looked at; None where an older agent does not say.
        changing: Files whose bytes may be of several moments, the first ones.
    """

    path: str
    digest: Digest
    size_bytes: int
    files: int
    complete: bool
    holders: tuple[PeerId, ...]
    at: datetime | None = None
    changing: tuple[str, ...] = ()


@frozen
class Wanted:
    """Something that a person asked for: an artifact, and what of it; "" is all."""

    artifact: KeptArtifact
    inside: str


def artifacts_of(picture: RunPicture, workflow: str = "") -> list[KeptArtifact]:
    """What a run kept, of one path only what the last job kept; `workflow` narrows it."""
    kept: dict[str, KeptArtifact] = {}
    for job in picture.record.jobs:
        if workflow in ("", job.workflow):
            for artifact in job.artifacts:
                path = plain_path(artifact.path)
                kept.pop(path, None)
                kept[path] = kept_of(path, artifact, job)
    return list(kept.values())


def plain_path(path: str) -> str:
    """One spelling for one path: "./model/" is "model"."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def below(path: str) -> str:
    """Where an artifact goes in a folder that several share: never outside, whatever its path."""
    return "/".join(part for part in plain_path(path).split("/") if part not in ("", "..", "~"))


def wanted(path: str, artifacts: Sequence[KeptArtifact], run_name: str) -> list[Wanted]:
    """What a path names: everything for "" or ".", an artifact, something in one, or several.

    Raises:
        Missing: Nothing has that path.
    """
    path = plain_path(path)
    if not path:
        return [Wanted(artifact, "") for artifact in artifacts]
    found: list[Wanted] = []
    for artifact in artifacts:
        if path == artifact.path or artifact.path.startswith(f"{path}/"):
            found.append(Wanted(artifact, ""))
        elif path.startswith(f"{artifact.path}/"):
            found.append(Wanted(artifact, path[len(artifact.path) + 1 :]))
    if not found:
        names = listed(artifact.path for artifact in artifacts)
        raise Missing(
            f"{run_name} kept nothing at {path!r}.",
            f"It kept {names}." if names else "It kept no artifacts.",
            f"dstack ls {run_name} -r",
            code="no-such-path",
        )
    return found


@frozen
class Source:
    """What a person named: a run, and perhaps only one workflow's jobs of it."""

    picture: RunPicture
    workflow: str = ""


def by_tag(
    text: str, pictures: Sequence[RunPicture], listings: Sequence[Listing], repo: str | None
) -> Source:
    """The run behind ":TAG", "WORKFLOW:TAG" or the same of another repository; "latest" falls back
    to the newest done run.

    Args:
        repo: Where tags are looked up first; a tag of another repository is taken if it is the only
            one of that name. None: no repository.

    Raises:
        Missing: There is no such tag or repository.
        Misused: Several repositories have it, or the text names nothing.
    """
    reference = read_reference(text) or Reference(workflow=text)
    tags = current_tags(listings)
    if reference.repo:
        known = repositories((one.record for one in pictures), tags)
        repo = repository_of(reference.repo, known)
    found = _tagged(reference, tags, repo, pictures) if reference.tag else None
    if found is None and reference.workflow and reference.tag in ("", LATEST):
        found = _newest(reference, repo, pictures)
    if found is None and reference.tag:
        hint = close_to(reference.tag, [one.tag for one in tags]) or "dstack tags"
        raise Missing(f"There is no tag {reference.tag!r}.", "", hint, code="no-such-tag")
    if found is None:
        what = f"No run of {text} is done."
        raise Missing(what, "", "dstack ps -a", code="no-such-run")
    return Source(found, reference.workflow)


def _tagged(
    reference: Reference,
    tags: Sequence[TagRecord],
    repo: str | None,
    pictures: Sequence[RunPicture],
) -> RunPicture | None:
    named = [one for one in tags if one.tag == reference.tag]
    here = [one for one in named if one.repo == repo]
    if not here and not reference.repo:
        here = named
    if len(here) > 1:
        raise Misused(
            f"Several repositories have the tag {reference.tag!r}.",
            f"They are {listed(one.repo or 'no repository' for one in here)}.",
            f"as :OWNER/REPO/{reference.tag}, or give the run's name",
            code="ambiguous",
        )
    run_ids = {one.run_id for one in here}
    return next((one for one in pictures if one.record.run_id in run_ids), None)


def _newest(
    reference: Reference, repo: str | None, pictures: Sequence[RunPicture]
) -> RunPicture | None:
    for picture in pictures:
        record = picture.record
        right = not reference.repo or record.revision.repo == repo
        is_done = picture.status is JobState.DONE and not picture.removed
        if right and record.target == reference.workflow and is_done:
            return picture
    return None


def kept_of(path: str, artifact: ArtifactSaved, job: JobRecord) -> KeptArtifact:
    """An artifact of a job, and who has it."""
    own = (job.agent_id,) if job.agent_id is not None else ()
    holders = dict.fromkeys([*own, *(copy.peer_id for copy in job.copies)])
    return KeptArtifact(
        path=path,
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        files=artifact.files,
        complete=artifact.complete,
        holders=tuple(holders),
        at=artifact.at,
        changing=artifact.changing,
    )
