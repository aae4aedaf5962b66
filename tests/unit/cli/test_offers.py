"""What `dstack offers` takes and how it shows what agents say."""

import json
from collections.abc import Mapping

import pytest

from dstack_cli.misused import Misused
from dstack_cli.offer_words import OFFERS, RESOURCES
from dstack_cli.output.offers import Answer, offers_listing
from dstack_cli.output.table import draw
from dstack_cli.run_words import Asked, read
from dstack_mesh.card import PeerCard
from dstack_mesh.ids import Digest, MeshId, PeerId, RunId, RunName
from dstack_mesh.machine import ExecutorKind, Gpu, Isolation, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.job import JobKey
from dstack_scheduler.needs import Needs
from dstack_scheduler.opinions import Opinion
from dstack_scheduler.verdict import Bid, Later, Never, Now, Reason
from dstack_scheduler.workflow.command_line import FLAGS, SHORT

GB = 10**9
V100 = Gpu("SIM-1", "V100", 16 * GB, simulated=True)
BUSY = Gpu("SIM-2", "V100", 16 * GB, simulated=True, holder="calm-ibex-1 (ana)")
T4 = Gpu("SIM-3", "T4", 16 * GB, simulated=True)
ISOLATION: Mapping[ExecutorKind, Isolation] = {ExecutorKind.PROCESS: Isolation.LANDLOCK}
HELD = Reason("gpu-busy", "GPU 1 is held by calm-ibex-1 (ana).")


def question(inputs: tuple[Digest, ...] = (), **needs: int | str) -> Question:
    wanted = Needs(**needs)  # pyright: ignore[reportArgumentType]
    key = JobKey(RunId("01A"), 0)
    return Question(key, RunName("a"), wanted, ExecutorKind.PROCESS, input_digests=inputs)


def answer(name: str, said: Bid | Reason, *cards: Gpu) -> Answer:
    card = PeerCard(PeerId(f"id-{name}"), MeshId("m"), name, (), "0", agent=True)
    machine = Machine(8, 32 * 2**30, 20 * 2**30, 100 * GB, cards, isolation=ISOLATION)
    return Answer(Opinion(card, False, said), machine)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", Asked()),
        ("--gpu 1 --json", Asked(words=("--gpu", "1"), as_json=True)),
        ("--gpu=1 train --lr 0.1", Asked("train", ("--gpu=1", "--lr", "0.1"))),
        ("-i train -q --cpu 4", Asked("train", ("-i", "--cpu", "4"), quiet=True)),
        ("--memory 8GB --agent ws-2", Asked(words=("--memory", "8GB"), placement="ws-2")),
        ("train -- --json", Asked("train", ("--", "--json"))),
    ],
)
def test_wishes_come_before_the_name_or_after_it(line: str, asked: Asked) -> None:
    assert read(line.split(), OFFERS) == asked


@pytest.mark.parametrize("line", ["--gpu", "--gup 1", "-d train", "--dry-run", "--env A=1 train"])
def test_what_cannot_be_meant_is_refused(line: str) -> None:
    with pytest.raises(Misused):
        read(line.split(), OFFERS)


def test_wishes_are_spelled_as_for_a_run() -> None:
    wanted = {
        name: bool(flag.example) for name, flag in FLAGS.items() if flag.meaning == "resources"
    }
    assert {flag.spellings[-1]: bool(flag.value) for flag in RESOURCES} == wanted
    short = {flag.spellings[0]: flag.spellings[1] for flag in RESOURCES if len(flag.spellings) == 2}
    assert short == {letter: name for letter, name in SHORT.items() if name in wanted}


def test_offers_are_those_who_could_now_or_later_and_scripts_get_everybody() -> None:
    answers = [
        answer("ws-1", Bid(Now(("SIM-1",))), V100, BUSY, T4),
        answer("ws-2", Bid(Later((HELD,), 300.0)), BUSY),
        answer("ws-3", Bid(Never((Reason("gpu-too-few", "It has none."),)))),
        answer("ws-4", Reason("no-answer", "It is away.")),
    ]
    listing = offers_listing(answers, question(gpus=1, gpu_name="V100"))
    head, now, later = draw(listing.table, None)
    assert head.split()[:4] == ["AGENT", "WHEN", "GPU", "FREE"]
    assert "TO FETCH" not in head
    assert now.split() == [
        *("ws-1", "now", "V100", "15GiB", "x", "2", "(simulated)", "1/2"),
        *("8", "20GiB", "100", "GB", "landlock"),
    ]
    assert "later, in 5m00s" in later and "0/1" in later
    assert listing.names == ["ws-1"]
    items = json.loads(json.dumps(listing.items))
    assert [one["verdict"] for one in items] == ["now", "later", "never", "no-answer"]
    assert [card["uuid"] for card in items[0]["gpus"]] == ["SIM-1", "SIM-2"]
    assert items[0]["gives"] == ["SIM-1"]
    assert items[1]["wait_seconds"] == 300.0
    assert items[1]["reasons"] == [{"code": "gpu-busy", "message": HELD.message, "hint": ""}]
    assert items[3]["missing_bytes"] is None


def test_what_is_to_be_fetched_is_said_where_there_are_inputs() -> None:
    answers = [answer("ws-1", Bid(Now(), 0)), answer("ws-2", Bid(Now(), 1_900_000_000))]
    head, near, far = draw(offers_listing(answers, question((Digest(b"1" * 32),))).table, None)
    assert head.endswith("TO FETCH")
    assert near.endswith("0 B") and far.endswith("1.9 GB")


def test_names_and_verdicts_are_never_cut() -> None:
    answers = [answer("workstation-with-a-name", Bid(Later((HELD,), 300.0)), V100, BUSY, T4)]
    for line in draw(offers_listing(answers, question()).table, 60):
        assert len(line) <= 60
    assert (
        "workstation-with-a-name  later, in 5m00s"
        in draw(offers_listing(answers, question()).table, 60)[1]
    )
