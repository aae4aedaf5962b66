"""Makes what people call runs and jobs."""

from collections.abc import Callable

from dstack_mesh.ids import RunId, RunName


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    """
    able agile amber ample azure bold brave breezy bright brisk calm candid careful cheerful
    chilly clever cosy crisp curious dapper daring eager early easy fancy fearless fluffy fresh
    friendly gentle glad golden grumpy happy hardy honest humble jolly keen kind lazy lively
    loyal lucky mellow merry mighty modest neat nimble noble patient plucky polite proud quick
    quiet rapid shy silver sleepy sunny swift witty
    """
)

ANIMALS = _words(
    """
    badger bat bear beaver bee bison bobcat camel cat cheetah cobra condor cougar crab crane
    cricket deer dingo dolphin donkey duck eagle eel elk falcon ferret finch fox frog gecko goat
    goose gopher hare hawk heron horse hyena ibex iguana jackal jaguar koala lemur lion llama
    lynx mole moose mule newt octopus otter owl panda parrot puffin quail rabbit raven robin
    seal tiger wombat
    """
)


def run_name(choose: Callable[[int], int], number: int) -> RunName:
    """A name such as "lazy-bobcat-1".

    Args:
        choose: Gives a number from 0 up to but not including its argument, as `random.randrange`
            does.
        number: Tells runs of the same two words apart; the caller knows which are taken.
    """
    adjective = ADJECTIVES[choose(len(ADJECTIVES))]
    return RunName(f"{adjective}-{ANIMALS[choose(len(ANIMALS))]}-{number}")


def job_id(run: RunId, index: int) -> str:
    """12 hex digits that name a job wherever people see it: the same in every attempt at it."""
    from hashlib import sha256  # most commands show no job

    return sha256(f"{run}-{index}".encode()).hexdigest()[:12]
