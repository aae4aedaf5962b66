"""The other agents as an agent reaches them."""

from dataclasses import replace
from pathlib import Path

from dstack_agent.peers import Peers
from dstack_mesh.card import PeerCard
from dstack_mesh.chunks.store import ChunkStore
from dstack_mesh.home import Home
from dstack_mesh.ids import Address, MeshId, PeerId
from dstack_mesh.membership.known import KnownAgent, Standing
from dstack_mesh.wire.channels import Channels
from support.meshes import Mesh

WS = PeerCard(PeerId("b" * 32), MeshId("m"), "ws-2", (Address("10.0.0.2:7420"),), "0", True)


def test_a_holder_is_called_by_its_name_or_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    known = KnownAgent(WS, WS.addresses, "seed", "alive", None, False)
    store = ChunkStore(tmp_path / "chunks")
    peers = Peers(Home(tmp_path), Channels(Home(tmp_path)), store, lambda: WS, lambda: [known])
    assert peers.name(WS.peer_id) == "ws-2"
    assert peers.name(PeerId("c" * 32)) == "c" * 8

    def called(peer_id: PeerId) -> str:
        return {"c": "laptop"}.get(peer_id[0], "")

    told = replace(peers, called=called)
    assert told.name(PeerId("c" * 32)) == "laptop"
    store.close()


async def test_who_is_gone_may_come_back_and_is_asked_but_who_left_is_not(tmp_path: Path) -> None:
    home, store = Mesh.make(tmp_path / "root").root, ChunkStore(tmp_path / "chunks")
    channels = Channels(home)

    def peer(letter: str, state: Standing) -> KnownAgent:
        card = replace(WS, peer_id=PeerId(letter * 32), name=f"ws-{letter}")
        return KnownAgent(card, card.addresses, "seed", state, None, False)

    known = [peer("c", "alive"), peer("d", "gone"), peer("e", "left")]
    peers = Peers(home, channels, store, lambda: WS, lambda: known)
    assert [agent.card.name async for agent in peers.agents()] == ["ws-2", "ws-c", "ws-d"]
    await channels.close()
    store.close()
