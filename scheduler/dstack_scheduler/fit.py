"""Whether a machine can run a job, now or ever: the one rule behind bids, holds and explanations.

- Every need is a minimum; what is not asked for counts nothing.
- Free is counted anew each time: the cards of the machine without those that jobs have or hold, and
  without those that strangers' processes use. Processors and memory are counted against what jobs
  asked for, not against what they use at this moment.
- What the owner allows comes on top and only takes away: cards that are not lent are not counted.
- "Never" comes before "not now" before "later": a job that can never run here is not made to wait.
- The tightest cards win: the smallest model that is enough, from the group it leaves fullest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dstack_mesh.frozen import frozen
from dstack_mesh.machine import AgentState, Gpu, Machine
from dstack_scheduler.agent_port import Question
from dstack_scheduler.gpus import memory_fits, name_fits
from dstack_scheduler.hours import clock
from dstack_scheduler.job import JobKey
from dstack_scheduler.lacks import lacks_of, memory_demand
from dstack_scheduler.needs import Needs
from dstack_scheduler.objections import Occasion, for_good, for_now
from dstack_scheduler.phrases import count, gigabytes, listing
from dstack_scheduler.policy import Policy
from dstack_scheduler.verdict import Later, Never, NotNow, Now, Reason, Verdict

__all__ = ["Occasion", "Policy", "Taken", "cards_for", "fit", "occupied"]

MIN_DISK_FREE_BYTES = 100 * 10**6
"""An agent with less free disk takes no jobs: code and logs would not fit."""


@frozen
class Taken:
    """What one hold or one running job has of a machine.

    Attributes:
        holder: For people: "lazy-bobcat-1 (ana)".
        running: A job has it; otherwise it is held for one that may come.
    """

    key: JobKey
    holder: str
    needs: Needs
    gpu_uuids: tuple[str, ...] = ()
    running: bool = True


@frozen
class _Place:
    """A machine, what others have of it and what is lent, as a question meets them."""

    machine: Machine
    others: tuple[Taken, ...]
    policy: Policy
    lent: tuple[Gpu, ...]

    @property
    def holders(self) -> dict[str, str]:
        return {uuid: taken.holder for taken in self.others for uuid in taken.gpu_uuids}

    @property
    def free(self) -> list[Gpu]:
        return [gpu for gpu in self.lent if self.is_free(gpu)]

    def is_free(self, gpu: Gpu) -> bool:
        return gpu.free and gpu.uuid not in self.holders


BY_OWNER = Occasion()


def fit(
    question: Question,
    machine: Machine,
    taken: Sequence[Taken] = (),
    state: AgentState = AgentState.ALIVE,
    policy: Policy | None = None,
    occasion: Occasion = BY_OWNER,
) -> Verdict:
    """The verdict of a machine on a question. Pure; the same for an ask and for a hold.

    Args:
        machine: A reading; cards with a holder that is not in `taken` are used by strangers.
        taken: All holds and leases. What the question's own job has counts as free.
        policy: What the owner allows; by default everything.
        occasion: Who asks, and when; by default the owner, at any time.
    """
    policy = policy or Policy()
    others = tuple(other for other in taken if other.key != question.key)
    place = _Place(machine, others, policy, policy.cards.of(machine.gpus))
    never = lacks_of(question, machine, policy, occasion.asker)
    never = never or for_good(question, machine, policy, occasion.asker)
    if never:
        return Never(tuple(never))
    later = _later(question.needs, place)
    not_now = _not_now(question, place, state, occasion)
    if not_now:
        return NotNow((*not_now, *later))
    if later:
        return Later(tuple(later))
    cards = _tightest(question.needs, place)
    return Now(
        gpu_uuids=tuple(gpu.uuid for gpu in cards),
        gpus_left=len(place.free) - len(cards),
        running=sum(other.running for other in place.others),
    )


def occupied(machine: Machine, taken: Iterable[Taken]) -> Machine:
    """The machine with the holders of its cards filled in."""
    holders = {uuid: other.holder for other in taken for uuid in other.gpu_uuids}
    gpus = (replace(gpu, holder=holders.get(gpu.uuid, gpu.holder)) for gpu in machine.gpus)
    return replace(machine, gpus=tuple(gpus))


def _not_now(
    question: Question, place: _Place, state: AgentState, occasion: Occasion
) -> list[Reason]:
    reasons: list[Reason] = []
    match state:
        case AgentState.ALIVE:
            pass
        case AgentState.DRAINING:
            reasons.append(Reason("draining", "The agent finishes its jobs and takes no new ones."))
        case AgentState.PAUSED:
            reasons.append(_paused(occasion))
    reasons += for_now(question, place.policy, occasion)
    disk = place.machine.disk_free_bytes
    if disk < MIN_DISK_FREE_BYTES:
        message = f"Only {disk // 10**6} MB of disk are free; a job needs at least 100 MB."
        reasons.append(Reason("disk-full", message, "free some disk there"))
    return [*reasons, *_foreign(question.needs, place)]


def _paused(occasion: Occasion) -> Reason:
    if occasion.paused_until is None:
        return Reason("paused", "The owner has taken the machine back for now.")
    until = clock(occasion.paused_until, occasion.at)
    message = f"The owner has taken the machine back until {until}."
    return Reason("paused", message, f"it takes jobs again at {until}")


def _foreign(needs: Needs, place: _Place) -> list[Reason]:
    """Cards that no end of a job of ours brings back, where the job cannot do without them."""
    holders = place.holders
    fitting = cards_for(needs, place.lent)
    strange = [gpu for gpu in fitting if not gpu.free and gpu.uuid not in holders]
    if len(fitting) - len(strange) >= needs.gpus:
        return []
    return [
        Reason(
            "gpu-foreign",
            f"{_numbers(cards, place)} in use by {holder}, which is no job of this agent.",
        )
        for holder, cards in _by_holder((gpu, gpu.holder) for gpu in strange)
    ]


def _later(needs: Needs, place: _Place) -> list[Reason]:
    machine, policy = place.machine, place.policy
    reasons = _busy_cards(needs, place) or _lent_out(needs, place)
    cpus = sum(other.needs.cpus for other in place.others)
    most_cpus = _least(machine.cpus, policy.cpus)
    if needs.cpus and cpus + needs.cpus > most_cpus:
        who = listing(other.holder for other in place.others if other.needs.cpus)
        message = f"{cpus} of {count(most_cpus, 'CPU')} are taken by {who}."
        reasons.append(Reason("cpu-busy", message))
    memory = sum(memory_demand(other.needs) for other in place.others)
    demand = memory_demand(needs)
    most_memory = _least(machine.memory_bytes, policy.memory_bytes)
    if demand and memory + demand > most_memory:
        who = listing(other.holder for other in place.others if memory_demand(other.needs))
        has = gigabytes(most_memory)
        message = f"{gigabytes(memory)} of {has} of memory are taken by {who}."
        reasons.append(Reason("memory-busy", message))
    most = max(4, 2 * machine.cpus) if policy.max_jobs is None else policy.max_jobs
    if len(place.others) >= most:
        message = f"{count(len(place.others), 'job')} of at most {most} run here."
        reasons.append(Reason("too-many-jobs", message))
    return reasons


def _least(has: int, lent: int | None) -> int:
    return has if lent is None else min(has, lent)


def _lent_out(needs: Needs, place: _Place) -> list[Reason]:
    """As many cards as are lent at once are out already, though others are free."""
    most, out = place.policy.cards.most, len(place.holders)
    if not needs.gpus or most is None or out + needs.gpus <= most:
        return []
    who = listing(place.holders.values())
    message = f"{place.policy.lender} lends {count(most, 'GPU')} at once; {out} held by {who}."
    return [Reason("policy-gpus", message)]


def _busy_cards(needs: Needs, place: _Place) -> list[Reason]:
    fitting = cards_for(needs, place.lent)
    if sum(place.is_free(gpu) for gpu in fitting) >= needs.gpus:
        return []
    holders = place.holders
    busy = ((gpu, holders[gpu.uuid]) for gpu in fitting if gpu.uuid in holders)
    return [
        Reason("gpu-busy", f"{_numbers(cards, place)} held by {holder}.")
        for holder, cards in _by_holder(busy)
    ]


def cards_for(needs: Needs, cards: Iterable[Gpu]) -> list[Gpu]:
    """The cards of the model and the size that are wanted, whoever has them."""
    return [
        gpu
        for gpu in cards
        if name_fits(needs.gpu_name, gpu.name)
        and memory_fits(needs.gpu_memory_bytes, gpu.memory_bytes, needs.gpu_memory_most_bytes)
    ]


def _tightest(needs: Needs, place: _Place) -> list[Gpu]:
    """The cards to give: of one model where one has enough, else the smallest of all."""
    if not needs.gpus:
        return []
    free = cards_for(needs, place.free)
    models: dict[tuple[int, str], list[Gpu]] = {}
    for gpu in free:
        models.setdefault((gpu.memory_bytes, gpu.name), []).append(gpu)
    enough = [(key, cards) for key, cards in models.items() if len(cards) >= needs.gpus]
    if enough:
        return min(enough, key=lambda each: (each[0][0], len(each[1]), each[0][1]))[1][: needs.gpus]
    return sorted(free, key=lambda gpu: gpu.memory_bytes)[: needs.gpus]


def _by_holder(cards: Iterable[tuple[Gpu, str]]) -> list[tuple[str, list[Gpu]]]:
    held: dict[str, list[Gpu]] = {}
    for gpu, holder in cards:
        held.setdefault(holder, []).append(gpu)
    return list(held.items())


def _numbers(cards: list[Gpu], place: _Place) -> str:
    """ "GPU 0 is" or "GPUs 0 and 2 are": numbers as the machine's own list counts them."""
    numbers = [str(place.machine.gpus.index(gpu)) for gpu in cards]
    if len(numbers) == 1:
        return f"GPU {numbers[0]} is"
    return f"GPUs {listing(numbers)} are"
