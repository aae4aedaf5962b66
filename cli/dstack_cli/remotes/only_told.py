"""What is kept elsewhere, for commands that only look: no byte of it is brought."""

from collections.abc import Sequence

from dstack_scheduler.agent_port import Listing
from dstack_scheduler.inputs import Elsewhere
from dstack_scheduler.job import Input


class OnlyTold:
    """Tells what is kept; implements `inputs.Elsewhere`."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere

    async def told(self) -> Sequence[Listing]:
        return await self._elsewhere.told()

    async def bring(self, what: Input, reached: bool) -> Input:
        return what
