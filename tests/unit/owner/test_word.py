"""The owner's word: a file that is read again, a pause that lasts, nothing lost to a mistake."""

import logging
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dstack_agent.owner.policy_file import GONE_SECONDS, PolicyFile
from dstack_agent.owner.spans import parse_until
from dstack_agent.owner.terms import Terms
from dstack_agent.owner.usage import used_bytes
from dstack_agent.owner.word import USAGE_SECONDS, OwnersWord
from dstack_mesh.faults import Invalid
from dstack_mesh.machine import AgentState
from dstack_scheduler.needs import Needs
from dstack_scheduler.policy import Network, Policy
from support.machines import SetClock, question, spec


def word_in(folder: Path, clock: SetClock, used: int = 0) -> OwnersWord:
    file = PolicyFile(folder / "policy.yaml", Policy(lender="ws-2"))
    file.load()
    return OwnersWord(file, folder / "owner.json", clock, lambda: used)


def write(folder: Path, text: str) -> None:
    """As an editor does it: a new file in the place of the old one."""
    draft = folder / ".draft"
    draft.write_text(text)
    draft.replace(folder / "policy.yaml")


def test_an_agent_without_a_policy_loads_no_parser(tmp_path: Path) -> None:
    story = (
        "import sys; from pathlib import Path\n"
        "from dstack_agent.owner.policy_file import Policy, PolicyFile\n"
        "PolicyFile(Path(sys.argv[1]), Policy()).load()\n"
        "print(*(name for name in sys.modules if 'policy_text' in name or 'yaml' in name))"
    )
    command = (sys.executable, "-c", story, str(tmp_path / "policy.yaml"))
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


async def test_a_changed_file_holds_without_a_restart(tmp_path: Path) -> None:
    word = word_in(tmp_path, SetClock())
    assert word.terms().policy == Policy(lender="ws-2")
    write(tmp_path, "cpus: 2")
    await word.look()
    assert word.terms().policy.cpus == 2
    with (tmp_path / "policy.yaml").open("a") as file:
        file.write("\nlongest: 1h")
    await word.look()
    assert word.terms().policy.longest_seconds == 3600


async def test_a_broken_file_keeps_the_last_good_one_and_says_so_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "cpus: 2")
    word = word_in(tmp_path, SetClock())
    write(tmp_path, "cpus: 2\nlongest: soon")
    await word.look()
    assert word.in_force.policy.cpus == 2
    assert word.in_force.text == "cpus: 2"
    assert f"{tmp_path / 'policy.yaml'}:2:10:" in word.in_force.problem
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "The policy of before holds on" in record.getMessage()
    await word.look()
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1, "once"
    write(tmp_path, "cpus: 3")
    await word.look()
    assert (word.in_force.policy.cpus, word.in_force.problem) == (3, "")


async def test_a_file_that_cannot_be_read_keeps_the_last_good_one(tmp_path: Path) -> None:
    write(tmp_path, "cpus: 2")
    word = word_in(tmp_path, SetClock())
    (tmp_path / "policy.yaml").unlink()
    (tmp_path / "policy.yaml").mkdir()
    await word.look()
    assert word.in_force.policy.cpus == 2
    assert "directory" in word.in_force.problem


async def test_a_file_that_is_gone_for_a_moment_is_being_saved(tmp_path: Path) -> None:
    clock = SetClock()
    write(tmp_path, "cpus: 2")
    word = word_in(tmp_path, clock)
    (tmp_path / "policy.yaml").unlink()
    await word.look()
    assert word.in_force.policy.cpus == 2
    clock.time += GONE_SECONDS
    await word.look()
    assert word.in_force.policy.cpus is None


def test_an_agent_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    write(tmp_path, "longest: soon")
    with pytest.raises(Invalid) as raised:
        word_in(tmp_path, SetClock())
    assert raised.value.code == "policy"
    assert "policy.yaml:1:10:" in raised.value.why


async def test_a_pause_outlives_the_agent_and_ends_by_itself(tmp_path: Path) -> None:
    clock = SetClock()
    await word_in(tmp_path, clock).pause(clock.now() + timedelta(minutes=30))
    word = word_in(tmp_path, clock)
    assert word.state is AgentState.PAUSED
    assert word.terms().paused_until is not None
    clock.time += 1799
    assert word.state is AgentState.PAUSED
    clock.time += 1
    assert word.state is AgentState.ALIVE
    assert word.terms() == Terms(policy=Policy(lender="ws-2"), at=word.terms().at)


async def test_drain_and_pause_last_until_resume(tmp_path: Path) -> None:
    clock = SetClock()
    word = word_in(tmp_path, clock)
    await word.drain()
    assert word_in(tmp_path, clock).state is AgentState.DRAINING
    await word.pause(None)
    clock.time += 10**7
    assert word_in(tmp_path, clock).state is AgentState.PAUSED
    await word.resume()
    assert word_in(tmp_path, clock).state is AgentState.ALIVE


async def test_a_pause_does_not_end_before_it_begins(tmp_path: Path) -> None:
    clock = SetClock()
    word = word_in(tmp_path, clock)
    with pytest.raises(Invalid):
        await word.pause(clock.now())
    assert word.state is AgentState.ALIVE


@pytest.mark.parametrize("text", ["", "{", "[]", '{"standing": "paused", "until": "later"}'])
def test_a_pause_that_cannot_be_read_keeps_the_machine_for_its_owner(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "owner.json").write_text(text)
    assert word_in(tmp_path, SetClock()).state is AgentState.PAUSED


async def test_used_disk_is_counted_only_where_a_rule_counts_it(tmp_path: Path) -> None:
    clock = SetClock()
    word = word_in(tmp_path, clock, used=7)
    await word.look()
    assert word.terms().disk_used_bytes == 0
    write(tmp_path, "disk: 1GB")
    await word.look()
    assert word.terms().disk_used_bytes == 7
    clock.time += USAGE_SECONDS
    await word.look()


def test_used_bytes_are_those_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x" * 10_000)
    (tmp_path / "a" / "link").symlink_to("/usr")
    assert 10_000 <= used_bytes((tmp_path / "a", tmp_path / "absent")) < 30_000


def test_what_a_job_leaves_open_is_limited_and_said() -> None:
    policy = Policy(lender="ws-2", longest_seconds=14400, cpus=2, network=Network.NONE)
    job = spec(question())
    limited, told = Terms(policy=policy).limited(job)
    assert limited.max_duration_seconds == 14400
    assert told == "On ws-2 a job runs for 4h at most, says its owner."
    assert limited.needs == job.needs, "a process is not contained"
    limited, told = Terms(policy=policy).limited(replace(job, image="ubuntu"))
    assert limited.needs == Needs(cpus=2), "a container that asks for no processors gets those"
    assert told.endswith("for 4h at most and containers have no network, says its owner.")
    assert Terms().limited(job) == (job, "")


NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("18:00", NOON.replace(hour=18)),
        ("9:30", NOON.replace(day=26, hour=9, minute=30)),
        ("30m", NOON + timedelta(minutes=30)),
        ("1h30m", NOON + timedelta(minutes=90)),
    ],
)
def test_the_end_of_a_pause_is_a_time_or_a_span(text: str, until: datetime) -> None:
    assert parse_until(text, NOON) == until


@pytest.mark.parametrize("text", ["", "soon", "25:00", "12:60", "-5m", "0s", "400d", "5"])
def test_what_is_no_end_of_a_pause_is_said(text: str) -> None:
    with pytest.raises(Invalid):
        parse_until(text, NOON)
