"""Runs that are to be pushed once they have ended: a file each, so that commands do not collide."""

from contextlib import suppress

from dstack_mesh.durable import write_durably
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId


@frozen
class ToPush:
    """A run and the remote that it goes to."""

    run_id: RunId
    remote: str


def note(home: Home, to_push: ToPush) -> None:
    """Remembers it until `done`."""
    folder = home.state / "to-push"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(folder / to_push.run_id, to_push.remote.encode())


def done(home: Home, run_id: RunId) -> None:
    """Forgets it."""
    with suppress(FileNotFoundError):
        (home.state / "to-push" / run_id).unlink()


def all_waiting(home: Home) -> list[ToPush]:
    """Every run that waits, the oldest first."""
    try:
        files = sorted((home.state / "to-push").iterdir())
    except FileNotFoundError:
        return []
    return [
        ToPush(RunId(one.name), one.read_text()) for one in files if not one.name.startswith(".")
    ]
