"""Which port of this machine leads to a port of a job."""

import socket

from dstack_cli.forwarding.forward import Forward
from dstack_scheduler.app import App
from dstack_scheduler.wire.tunnel import Offered, TunnelClient
from support.machines import key


async def nobody() -> TunnelClient | None:
    return None


async def test_a_job_of_this_machine_has_its_own_port_but_for_ssh() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        for app, own in ((App("web", web=True), True), (App("ssh", ssh=True), False)):
            offered = Offered(key(), (port,), (True,), (app,), "", (), on_machine=True)
            forward = Forward(key(), nobody, is_here=True)
            async with forward.running():
                (link,) = await forward.lead(offered)
                assert (link.local == port) is own
