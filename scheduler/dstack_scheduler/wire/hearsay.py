"""What an agent knows of others: the client of what RecordService tells of agents and logs."""

import grpc.aio

from dstack_mesh.ids import RunId
from dstack_mesh.v1 import records_pb2 as pb
from dstack_mesh.v1.records_pb2_grpc import RecordServiceStub
from dstack_mesh.wire.errors import translated
from dstack_mesh.wire.membership import answer_from_wire, answer_to_wire
from dstack_scheduler.agent_port import Advert
from dstack_scheduler.job import LogTail
from dstack_scheduler.wire import convert, fields

QUICK_SECONDS = 5.0


class HearsayClient:
    """Asks one agent about all others. `name` is what errors call it."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = RecordServiceStub(channel)
        self._name = name

    async def adverts(self) -> tuple[Advert, ...]:
        """What each agent last said of itself. Raises MeshError; Refused by older agents."""
        with translated(self._name):
            answer = await self._stub.Agents(pb.AgentsRequest(), timeout=QUICK_SECONDS)
        return tuple(advert_from_wire(one) for one in fields.items(answer.agents, "Agents"))

    async def tails(self, run_id: RunId) -> tuple[LogTail, ...]:
        """The last lines that a run's jobs wrote. Raises MeshError; Refused by older agents."""
        with translated(self._name):
            answer = await self._stub.Tails(pb.TailsRequest(run_id=run_id), timeout=QUICK_SECONDS)
        found = fields.items(answer.tails, "Ends of logs")
        return tuple(convert.log_tail_from_wire(one) for one in found)


def advert_to_wire(advert: Advert) -> pb.AgentAdvert:
    return pb.AgentAdvert(
        said=answer_to_wire(advert.said),
        heard_at=fields.instant_to_wire(advert.heard_at),
        answers=advert.answers,
    )


def advert_from_wire(wire: pb.AgentAdvert) -> Advert:
    said = answer_from_wire(wire.said)
    return Advert(said, fields.instant_from_wire(wire.heard_at), wire.answers)
