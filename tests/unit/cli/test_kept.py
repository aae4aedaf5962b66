"""What a run kept, by the paths that people type."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dstack_cli.kept import artifacts_of, by_tag, plain_path, wanted
from dstack_cli.misused import Misused
from dstack_cli.output.files import Shelf, files_listing, partial_lines
from dstack_cli.picture import RunPicture, put_together
from dstack_mesh.chunks.manifest import FileEntry, FolderEntry, LinkEntry, Manifest
from dstack_mesh.faults import Missing
from dstack_mesh.ids import Digest, PeerId, RunId, RunName
from dstack_scheduler.agent_port import Listing
from dstack_scheduler.job import (
    ArtifactSaved,
    JobKey,
    JobRecord,
    JobState,
    Revision,
    RunRecord,
    Source,
    StateChange,
    TagRecord,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
WS = PeerId("ws")
LAPTOP = PeerId("laptop")


def run(number: int, *paths: str, repo: str = "lab") -> RunRecord:
    run_id = RunId(f"01{number}")
    jobs: list[JobRecord] = []
    for index, path in enumerate(paths):
        key = JobKey(run_id, index)
        saved = ArtifactSaved(key, path, Digest(bytes([number, index]) * 16), 1, 10, True)
        state = StateChange(key, JobState.DONE, AT, exit_code=0)
        jobs.append(
            JobRecord(
                *(key, f"w{index}", "bash", state),
                agent_id=WS,
                artifacts=(saved,),
                copies=(Source(LAPTOP),),
            )
        )
    return RunRecord(
        *(run_id, RunName(f"calm-ibex-{number}"), f"w{len(paths) - 1}", "ana@laptop"),
        *(AT + timedelta(minutes=number), len(paths), Revision(repo)),
        jobs=tuple(jobs),
    )


def picture(*paths: str) -> RunPicture:
    return put_together([(WS, Listing((run(1, *paths),), ()))])[0]


def test_one_path_has_one_spelling() -> None:
    assert [plain_path(path) for path in ("./model/", "model", "a//b", "/abs/x/", "~/x")] == [
        *("model", "model", "a/b", "/abs/x", "~/x")
    ]


def test_of_two_jobs_that_kept_one_path_the_later_counts() -> None:
    kept = artifacts_of(picture("data", "./data/"))
    assert [(one.path, one.digest[1]) for one in kept] == [("data", 1)]
    assert kept[0].holders == (WS, LAPTOP)


def test_what_an_attempt_kept_that_was_given_up_never_counts() -> None:
    """It comes back late from behind a partition, complete, while the next attempt goes on."""
    late, now = run(1, "model"), run(1, "model")
    [job] = now.jobs
    key = replace(job.key, attempt=2)
    partial = replace(job.artifacts[0], key=key, complete=False, digest=Digest(b"p" * 32), at=AT)
    state = replace(job.state, key=key, state=JobState.RUNNING, exit_code=None)
    job = replace(job, key=key, agent_id=LAPTOP, state=state, artifacts=(partial,))
    tellings = [(WS, Listing((late,), ())), (LAPTOP, Listing((replace(now, jobs=(job,)),), ()))]
    for order in (tellings, tellings[::-1]):
        [kept] = artifacts_of(put_together(order)[0])
        assert (kept.digest, kept.complete) == (partial.digest, False)
        assert partial_lines([kept], AT + timedelta(seconds=3)) == [
            "model is partial, saved 3 sec ago"
        ]
    assert partial_lines(artifacts_of(picture("model")), AT) == []


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", [("data", ""), ("out/model", "")]),
        (".", [("data", ""), ("out/model", "")]),
        ("data", [("data", "")]),
        ("out", [("out/model", "")]),
        ("out/model/w.bin", [("out/model", "w.bin")]),
    ],
)
def test_paths_name_artifacts_and_what_is_in_them(path: str, found: list[tuple[str, str]]) -> None:
    kept = artifacts_of(picture("data", "out/model"))
    assert [(one.artifact.path, one.inside) for one in wanted(path, kept, "r")] == found


def test_a_path_that_nothing_has_says_what_there_is() -> None:
    with pytest.raises(Missing, match="data and out/model"):
        wanted("dat", artifacts_of(picture("data", "out/model")), "r")


def test_tags_are_looked_up_in_this_repository_first() -> None:
    listing = Listing(
        (run(1, "a"), run(2, "a", repo="other"), run(3, "a")),
        (
            TagRecord("lab", "v1", RunId("011"), "calm-ibex-1", AT),
            TagRecord("other", "v1", RunId("012"), "calm-ibex-2", AT),
        ),
    )
    pictures = put_together([(WS, listing)])
    found = by_tag(":v1", pictures, [listing], "other")
    assert found.picture.record.run_name == "calm-ibex-2"
    with pytest.raises(Misused, match="lab"):
        by_tag(":v1", pictures, [listing], "third")
    assert by_tag("w0:latest", pictures, [listing], "lab").picture.record.run_name == "calm-ibex-3"
    with pytest.raises(Missing):
        by_tag(":v9", pictures, [listing], "lab")


def shelf(inside: str = "") -> Shelf:
    entries = [
        FileEntry("a.txt", (3,), bytes(32)),
        FileEntry("deep/b.sh", (5,), bytes(32), executable=True),
        FileEntry("deep/er/c", (1, 2), bytes(64)),
        FolderEntry("empty"),
        LinkEntry("link", "a.txt"),
    ]
    return Shelf(artifacts_of(picture("data"))[0], Manifest(entries), inside)


class Names:
    """Holders of whom some do not answer."""

    def __init__(self, *silent: PeerId) -> None:
        self.silent = silent

    def name(self, peer_id: PeerId) -> str:
        return "ws-1" if peer_id == WS else peer_id

    def reached(self, peer_id: PeerId) -> bool:
        return peer_id not in self.silent


def test_an_artifact_whose_holders_do_not_answer_is_one_line_that_says_so() -> None:
    known = replace(shelf(), manifest=None)
    [item] = files_listing([known], True, Names(WS)).items
    assert (item["path"], item["size"]) == ("data/", known.artifact.size_bytes)
    assert item["unreachable"] == ["ws-1"]
    assert str(item["digest"]).startswith("tree:")


def test_a_listing_shows_the_top_of_a_folder_with_totals() -> None:
    items = files_listing([shelf()], False, Names()).items
    assert {item["path"]: item["size"] for item in items} == {
        "data/a.txt": 3,
        "data/deep/": 8,
        "data/empty/": 0,
        "data/link": 5,
    }


def test_links_and_files_that_were_being_written_are_shown_as_such() -> None:
    written = replace(shelf().artifact, changing=("a.txt",), complete=False, at=AT)
    listing = files_listing([replace(shelf(), artifact=written)], True, Names())
    shown = {row[1] for row in listing.table.rows}
    assert {"a.txt (changing)", "link -> a.txt", "deep/b.sh", "empty/"} <= shown
    items = {str(item["path"]): item for item in listing.items}
    assert [path for path, item in items.items() if item["changing"]] == ["data/a.txt"]
    assert items["data/link"]["saved_at"] == "2026-11-20T12:00:00.000Z"
    assert items["data/link"]["state"] == "partial"


def test_a_listing_below_a_folder_and_of_one_file() -> None:
    below = files_listing([shelf("deep")], False, Names()).items
    assert {item["path"]: item["size"] for item in below} == {
        "data/deep/b.sh": 5,
        "data/deep/er/": 3,
    }
    [only] = files_listing([shelf("deep/b.sh")], False, Names()).items
    assert (only["path"], only["mode"]) == ("data/deep/b.sh", "0755")


def test_a_recursive_listing_has_every_file_with_its_hash_and_holders() -> None:
    items = files_listing([shelf()], True, Names()).items
    assert [item["path"] for item in items] == [
        *("data/a.txt", "data/deep/b.sh", "data/deep/er/c", "data/empty/", "data/link")
    ]
    assert items[0]["copies"] == ["ws-1", "laptop"]
    assert str(items[0]["digest"]).startswith("blake3:")
    assert str(items[2]["digest"]).startswith("chunks:")
