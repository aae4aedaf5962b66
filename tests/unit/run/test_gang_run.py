"""A run with a gang in it, from event to effect."""

from dstack_scheduler.job import JobState
from dstack_scheduler.run import PATIENCE_SECONDS, End, Part, Place, Placed, PlaceGang, Run, StopJob
from support.small_runs import ended, key


def gang(nodes: int = 3) -> Run:
    """A gang, and a job that needs its master."""
    members = tuple(range(nodes))
    parts = [Part(key(n), f"train-{n}", (), gang=members) for n in members]
    return Run([*parts, Part(key(nodes), "report", (0,))])


def started(nodes: int = 3) -> Run:
    run = gang(nodes)
    run.start()
    for node in range(nodes):
        run.handle(Placed(key(node)))
    return run


def test_the_nodes_of_a_gang_are_placed_at_once() -> None:
    assert gang().start() == [PlaceGang((key(0), key(1), key(2)))]


def test_who_needs_a_gang_waits_for_its_master_alone() -> None:
    run = started()

    assert run.handle(ended(1)) == []
    assert run.handle(ended(0)) == [Place(key(3))]


def test_one_node_that_fails_stops_the_others_and_decides() -> None:
    run = started()

    stops = run.handle(ended(2, JobState.FAILED, 7))
    run.handle(ended(0, JobState.STOPPED))
    (end,) = run.handle(ended(1, JobState.STOPPED))

    cause = "train-2: failed"
    assert stops == [StopJob(key(0), False, cause), StopJob(key(1), False, cause)]
    assert isinstance(end, End)
    assert (end.state.key.job, end.state.exit_code) == (2, 7)


def test_nodes_that_outlive_their_master_are_stopped_after_a_while() -> None:
    members = (0, 1)
    run = Run([Part(key(n), "train", (), gang=members) for n in members])
    run.start()
    for node in members:
        run.handle(Placed(key(node)))

    stops = run.handle(ended(0))
    (end,) = run.handle(ended(1, JobState.STOPPED))

    assert stops == [StopJob(key(1), False, "", PATIENCE_SECONDS)]
    assert isinstance(end, End)
    assert (end.state.key.job, end.state.state) == (0, JobState.DONE)
