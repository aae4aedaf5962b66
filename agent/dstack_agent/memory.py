"""Everything an agent keeps on disk, opened together and closed together."""

from contextlib import AsyncExitStack

from dstack_agent.caches import Caches
from dstack_agent.database import Database
from dstack_agent.driven import DrivenRuns
from dstack_agent.ledger import Ledger
from dstack_agent.records import Records
from dstack_agent.removals import Removals
from dstack_agent.tags import Tags
from dstack_agent.touched import Touched
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.clock import Clock
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home


@frozen
class Memory:
    """The agent's databases and its chunk store.

    Attributes:
        touched: Knows what changed in the records, for other agents.
        unsigned: Knows what changed in the records of jobs, for the notary.
    """

    records: Records
    tags: Tags
    removals: Removals
    driven: DrivenRuns
    caches: Caches
    ledger: Ledger
    store: ChunkStore
    touched: Touched
    unsigned: Touched


def open_memory(home: Home, clock: Clock, stack: AsyncExitStack) -> Memory:
    """Opens everything; the stack closes it. Raises Refused for files of a newer version."""
    database = Database(home.state / "agent.db")
    stack.callback(database.close)
    ledger = Ledger(home.state / "ledger.db", clock)
    stack.callback(ledger.close)
    store = ChunkStore(home.chunks)
    stack.callback(store.close)
    touched, unsigned = Touched(), Touched()
    tags = Tags(database, touched)
    return Memory(
        Records(database, touched, unsigned),
        tags,
        Removals(database, tags, touched),
        DrivenRuns(database, touched),
        Caches(database),
        ledger,
        store,
        touched,
        unsigned,
    )
