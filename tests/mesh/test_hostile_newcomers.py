"""What strangers send to the listener of an invitation, the one door that asks for no certificate.

`DSTACK_CHAOS_ROUNDS=1000000 pytest tests/mesh/test_hostile_newcomers.py` sends so many messages.
"""

import asyncio
import gc
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from google.protobuf.message import DecodeError, Message

from dstack_mesh.home import Home
from dstack_mesh.trust.invite import make_code
from dstack_mesh.trust.joining import Newcomer
from dstack_mesh.v1 import admission_pb2 as pb
from dstack_mesh.v1 import admission_pb2_grpc as rpc
from dstack_mesh.wire.admission import AdmissionServicer
from support.desks import desk_of
from support.meshes import Mesh
from support.mutations import mutated
from support.rounds import rounds, seeded
from support.whole_agent import Collected, Context, Method, guarded, watched_for_bugs

GROWTH_BYTES = 100 << 20
SLOWEST_SECONDS = 5.0

SERVICE = "/dstack_mesh.v1.AdmissionService/"


@dataclass(slots=True)
class Stranger(Context):
    """Somebody without a certificate."""

    address: str = "ipv4:10.6.6.6:6666"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"transport_security_type": [b"ssl"], "ssl_tls_version": [b"TLSv1.3"]}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return self.address


@dataclass(slots=True)
class Answers:
    """What came of the calls."""

    codes: Counter[str] = field(default_factory=Counter[str])
    slowest: float = 0.0

    async def send(self, name: str, method: Method, message: Message, address: str) -> None:
        began = time.monotonic()
        async with asyncio.timeout(60):
            code: grpc.StatusCode | None = await method.call([message], Stranger(address=address))
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.codes[f"{name} {code.name if code else 'answered'}"] += 1


def seeds_of(newcomer: Newcomer) -> dict[str, list[Message]]:
    """What somebody says who has the code, but for the proof."""
    greets = pb.GreetRequest(
        invite_id=newcomer.invite_id,
        joiner_key=newcomer.public_key,
        joiner_nonce=newcomer.nonce,
    )
    joins = pb.JoinRequest(
        invite_id=newcomer.invite_id,
        joiner_nonce=newcomer.nonce,
        joiner_proof=secrets.token_bytes(32),
        certificate_request=newcomer.request(),
        name=newcomer.name,
    )
    return {"Greet": [greets], "Join": [joins]}


async def test_messages_changed_by_chance_let_nobody_in_and_cost_no_memory(tmp_path: Path) -> None:
    mesh, chance, total = Mesh.make(tmp_path / "root"), seeded("newcomers"), rounds(1_500)
    code = make_code()
    desk = await asyncio.to_thread(desk_of, mesh, code, 10 * total)
    collected = Collected()
    rpc.add_AdmissionServiceServicer_to_server(AdmissionServicer(desk), collected)
    methods = {name.removeprefix(SERVICE): one for name, one in (await guarded(collected)).items()}
    answers, process = Answers(), psutil.Process()
    seeds = seeds_of(Newcomer(Home(tmp_path / "laptop"), code, "laptop"))
    assert methods.keys() == seeds.keys()
    before = most = 0
    async with watched_for_bugs() as bugs:
        for number in range(total):
            name = chance.choice(("Greet", "Join"))
            address = f"ipv4:10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:1"
            if name == "Join":  # only who greeted from there is heard
                await answers.send("Greet", methods["Greet"], seeds["Greet"][0], address)
            try:
                message = methods[name].read(mutated(chance, seeds[name]))
            except DecodeError:
                answers.codes["unreadable"] += 1
                continue
            await answers.send(name, methods[name], message, address)
            assert not bugs.found
            if number == total // 50:
                gc.collect()
                before = process.memory_info().rss
            if number % 100 == 0:
                await asyncio.sleep(0)
                most = max(most, process.memory_info().rss)
    grown = (most - before) / (1 << 20)
    print(
        f"AdmissionService: {total:,} messages, memory grew by {grown:.1f} MiB, slowest "
        f"{answers.slowest:.3f} s, {dict(answers.codes)}"
    )
    assert "Join answered" not in answers.codes
    assert {"Greet answered", "Join PERMISSION_DENIED"} <= answers.codes.keys()
    assert answers.slowest < SLOWEST_SECONDS
    assert grown * (1 << 20) < GROWTH_BYTES
