"""The file of the policy: what it says, and what is wrong with it, at its place."""

from pathlib import Path

import pytest

from dstack_agent.owner.policy_text import KEYS, PolicyBroken, parse_policy
from dstack_agent.owner.words import policy_shape, policy_told
from dstack_mesh.machine import ExecutorKind
from dstack_scheduler.policy import Lent, Network, Policy, Reclaim

PATH = Path("policy.yaml")
WHOLE = """
who: [ana-laptop, role:runner]
images: ["pytorch/*"]
executors: [process, docker]
gpus: {cards: [0, RTX 4090], most: 1}
hours: ["weekdays 19:00-08:00", weekends]
longest: 4h
cpus: 4
memory: 16GB
disk: 200GB
network: none
mounts: none
reclaim: ask
grace: 10s
"""


def read(text: str) -> Policy:
    return parse_policy(PATH, text.encode(), Policy(lender="ws-2"))


def test_everything_is_read() -> None:
    policy = read(WHOLE)
    hours = policy.hours
    assert hours is not None
    assert [window.text for window in hours] == ["weekdays 19:00-08:00", "weekends"]
    assert policy == Policy(
        lender="ws-2",
        who=("ana-laptop", "role:runner"),
        images=("pytorch/*",),
        executors=frozenset(ExecutorKind),
        cards=Lent(("0", "RTX 4090"), 1),
        hours=hours,
        longest_seconds=4 * 3600.0,
        cpus=4,
        memory_bytes=16 * 10**9,
        disk_bytes=200 * 10**9,
        network=Network.NONE,
        mounts=False,
        reclaim=Reclaim.ASK,
        grace_seconds=10.0,
    )


def test_every_key_is_shown() -> None:
    told = [line.partition(":")[0] for line in policy_told(read(WHOLE)).splitlines()]
    assert told == list(KEYS)
    shown = {key.removesuffix("_seconds").removesuffix("_bytes") for key in policy_shape(Policy())}
    assert shown == set(KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "who: everybody\nimages: all\ngpus: all\nhours: always\nnetwork: bridge\nmounts: allowed",
    ],
)
def test_a_file_that_forbids_nothing_is_no_rule(text: str) -> None:
    assert read(text) == Policy(lender="ws-2")


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        ("gpus: none", Lent(())),
        ("gpus: [GPU-5f0a11, 1]", Lent(("GPU-5f0a11", "1"))),
        ("gpus: V100", Lent(("V100",))),
        ("gpus: {most: 2}", Lent(None, 2)),
    ],
)
def test_cards_are_written_in_several_ways(text: str, cards: Lent) -> None:
    assert read(text).cards == cards


BROKEN = {
    "not YAML": ("cpus: 1\nwho: [ana\nhours: x", 2, "syntax"),
    "a tab": ("gpus:\n\tmost: 1", 2, "tab"),
    "an unknown key": ("hours: always\nwhoo: [ana]", 2, "unknown-key"),
    "no hours": ("hours:\n  - weekends\n  - nights", 3, "bad-hours"),
    "no span": ("longest: soon", 1, "bad-span"),
    "no size": ("memory: 16", 1, "bad-size"),
    "no number": ("cpus: many", 1, "bad-number"),
    "an unknown word": ("network: host", 1, "bad-name"),
    "a role as a peer": ("who: [runner]", 1, "bad-name"),
    "no such role": ("who: ['role:king']", 1, "bad-name"),
    "a number of cards or a card": ("gpus: 1", 1, "wrong-type"),
    "a key of gpus": ("gpus: {card: [0]}", 1, "unknown-key"),
    "no value": ("who:", 1, "empty"),
    "twice": ("cpus: 1\ncpus: 2", 2, "duplicate-key"),
    "a list": ("- who", 1, "wrong-type"),
    "not text": ("who: \xff", 1, "encoding"),
}


@pytest.mark.parametrize(("text", "line", "code"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_said_at_its_place_with_a_fix(text: str, line: int, code: str) -> None:
    with pytest.raises(PolicyBroken) as raised:
        parse_policy(PATH, text.encode("latin-1"), Policy())
    (problem,) = raised.value.problems
    assert (problem.line, problem.code.value) == (line, code)
    assert problem.hint or code in ("bad-number",)
    assert f"policy.yaml:{line}:" in raised.value.why
    assert "dstack-runner policy --check" in raised.value.hint


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(PolicyBroken) as raised:
        read("hours: nights\nmemory: 16\nwhoo: x")
    assert [problem.line for problem in raised.value.problems] == [1, 2, 3]
    assert raised.value.why.endswith("And 2 more.")
