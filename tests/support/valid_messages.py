"""Valid messages for each method that an agent serves, to be changed by whoever tests it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from zstandard import ZstdCompressor

from dstack_mesh.card import PeerHint
from dstack_mesh.chunks.digest import digest_of
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity
from dstack_mesh.ids import Address, Digest, PeerId, RunId, RunName
from dstack_mesh.machine import AgentState, ExecutorKind
from dstack_mesh.membership.rumour import Condition, Rumour
from dstack_mesh.records.hybrid import Hybrid
from dstack_mesh.records.pen import Pen
from dstack_mesh.records.record import NOTHING, Entry
from dstack_mesh.signing import Signer
from dstack_mesh.trust.authority import make_request
from dstack_mesh.trust.membership import Role
from dstack_mesh.trust.roster.roster import Roster
from dstack_mesh.trust.roster.statement import Admit
from dstack_mesh.v1 import (
    admission_pb2,
    auction_pb2,
    evidence_pb2,
    membership_pb2,
    owner_pb2,
    records_pb2,
    roster_pb2,
    run_pb2,
    transfer_pb2,
    tunnel_pb2,
)
from dstack_mesh.wire.membership import card_to_wire, hint_to_wire
from dstack_mesh.wire.records import frames
from dstack_mesh.wire.roster import own_scribe
from dstack_mesh.wire.rumours import rumour_to_wire
from dstack_mesh.wire.statements import signed_to_wire
from dstack_scheduler.agent_port import DrivenJob
from dstack_scheduler.app import App
from dstack_scheduler.job import Input, Node, Revision, RunRecord, Source, TagRecord
from dstack_scheduler.needs import Needs
from dstack_scheduler.secret import RegistryAuth
from dstack_scheduler.wire import convert, questions
from support import machines
from support.meshes import card_of, member

AT = datetime(2026, 11, 20, tzinfo=UTC)
PEER = PeerId("a" * 32)
DIGEST = Digest(digest_of(b"hello"))
RUN = RunId("0" * 26)
SOURCE = Source(PEER, (Address("10.0.0.1:7420"),))
_PACKAGE = "/dstack_mesh.v1."
_health: Any = health_pb2  # its stubs are older than it is


def valid_messages(home: Home) -> dict[str, Sequence[Message]]:
    """By method; for a stream of requests, those that it may hold."""
    ours = {
        **_membership(home),
        **_auction(),
        **_runs(),
        **_transfer(),
        **_records(home),
        **_roster(home),
        **_evidence(),
        **_tunnel(),
        "InvitationService/Watch": [admission_pb2.WatchRequest(invite_id="7K3V")],
        # A role that nobody is invited as: no listener opens.
        "InvitationService/Invite": [admission_pb2.InviteRequest(role="root", lifetime_seconds=60)],
        "OwnerService/Pause": [_pause(), owner_pb2.PauseRequest(now=True)],
        "OwnerService/Resume": [owner_pb2.ResumeRequest()],
        "OwnerService/Drain": [owner_pb2.DrainRequest()],
        "OwnerService/Show": [owner_pb2.ShowRequest()],
    }
    asked = reflection_pb2.ServerReflectionRequest
    others: dict[str, Sequence[Message]] = {
        "/grpc.health.v1.Health/Check": [health_pb2.HealthCheckRequest(service="x")],
        "/grpc.health.v1.Health/List": [_health.HealthListRequest()],
        "/grpc.health.v1.Health/Watch": [health_pb2.HealthCheckRequest(service="x")],
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": [
            asked(list_services="*"),
            asked(file_containing_symbol="dstack_mesh.v1.RunService"),
            asked(file_by_filename="dstack_mesh/v1/run.proto"),
        ],
    }
    return {_PACKAGE + name: messages for name, messages in ours.items()} | others


def admissions(invite_id: str, key: bytes, nonce: bytes, request: bytes) -> list[Message]:
    """What a newcomer says to the listener of an invitation."""
    return [
        admission_pb2.GreetRequest(invite_id=invite_id, joiner_key=key, joiner_nonce=nonce),
        admission_pb2.JoinRequest(
            invite_id=invite_id,
            joiner_proof=b"p" * 32,
            certificate_request=request,
            joiner_nonce=nonce,
            name="ws-1",
        ),
    ]


def _pause() -> owner_pb2.PauseRequest:
    request = owner_pb2.PauseRequest(now=False)
    request.until.FromDatetime(AT.replace(year=2030))
    return request


def _membership(home: Home) -> dict[str, Sequence[Message]]:
    card = card_to_wire(card_of(home, "laptop", ("10.0.0.1:7420",)))
    hints = [hint_to_wire(PeerHint(PEER, SOURCE.addresses))]
    word = rumour_to_wire(
        Rumour(PEER, 1 << 40, Condition.ALIVE, AgentState.ALIVE, "ws-2", SOURCE.addresses)
    )
    return {
        "MembershipService/Hello": [membership_pb2.HelloRequest(caller=card)],
        "MembershipService/Probe": [membership_pb2.ProbeRequest(word=word, rumours=[word])],
        "MembershipService/ProbeFor": [membership_pb2.ProbeForRequest(target=hints[0])],
        "MembershipService/Compare": [
            membership_pb2.CompareRequest(word=word, fingerprint=b"f" * 8, rumours=[word])
        ],
    }


def _auction() -> dict[str, Sequence[Message]]:
    plain = machines.question()
    rich = replace(
        machines.question(Needs(1, 1 << 30, 1, "V100", 1 << 30, 1 << 20)),
        executor=ExecutorKind.DOCKER,
        image="busybox",
        input_digests=(DIGEST,),
        input_sizes_bytes=(5,),
        outside_paths=("/data",),
        max_duration_seconds=60.0,
    )
    commit = auction_pb2.CommitRequest(
        hold_id="h" * 20, epoch=1, spec=_spec(), secrets={"TOKEN": "value"}
    )
    return {
        "AuctionService/Ask": [questions.ask_to_wire(plain), questions.ask_to_wire(rich)],
        "AuctionService/Reserve": [
            questions.reserve_to_wire(plain, 1),
            questions.reserve_to_wire(rich, 1),
        ],
        "AuctionService/Commit": [commit],
        "AuctionService/Release": [auction_pb2.ReleaseRequest(hold_id="h" * 20)],
    }


def _spec() -> Any:
    spec = replace(
        machines.spec(machines.question(), code=DIGEST),
        env={"A": "b"},
        working_dir="sub",
        artifacts=("out",),
        inputs=(Input(DIGEST, "data", (SOURCE,), "calm-ibex-1 (prepare)", 5),),
        revision=Revision("github.com/lab/digits", "main", "0" * 40, True),
        secret_names=("TOKEN",),
        ports=(8000, 0),
        apps=(App("lab", 1, 18000, "/lab", "token={token}", "TOKEN", True),),
        max_duration_seconds=60.0,
        registry_auth=RegistryAuth("ana", "${{ secrets.TOKEN }}"),
        node=Node(1, 2, "10.0.0.7:29500"),
    )
    return convert.spec_to_wire(spec)


def _runs() -> dict[str, Sequence[Message]]:
    key = convert.key_to_wire(machines.key())
    stop = run_pb2.StopRequest(run_id=machines.key().run_id, job=0, abort=True, cause="enough")
    record = RunRecord(RUN, RunName("calm-ibex-1"), "train", "ana@laptop", AT, 1)
    driven = DrivenJob(convert.spec_from_wire(_spec()), (), "remote", SOURCE)
    tag = TagRecord("github.com/lab/digits", "v1", RUN, RunName("calm-ibex-1"), AT)
    follow = run_pb2.Follow(key=key, stdout_offset_bytes=1, until_now=True)
    attach = run_pb2.AttachRequest
    return {
        "RunService/Attach": [
            attach(follow=follow),
            attach(ack=run_pb2.Ack(key=key, stdout_offset_bytes=1)),
            attach(stop=stop),
            attach(want=transfer_pb2.Want(digests=DIGEST)),
        ],
        "RunService/List": [run_pb2.ListRequest(runs=["calm-ibex-1"]), run_pb2.ListRequest()],
        "RunService/Stop": [stop],
        "RunService/Drive": [
            run_pb2.DriveRequest(
                record=convert.run_record_to_wire(record),
                jobs=[convert.driven_to_wire(driven)],
                epoch=2,
            )
        ],
        "RunService/Remove": [
            run_pb2.RemoveRequest(run_id=machines.key().run_id),
            run_pb2.RemoveRequest(caches=run_pb2.CachesOf(repo="lab/digits", workflow="train")),
        ],
        "RunService/Reload": [run_pb2.ReloadRequest(key=key, code_digest=DIGEST)],
        "RunService/Tag": [run_pb2.TagRequest(tag=convert.tag_to_wire(tag))],
    }


def _transfer() -> dict[str, Sequence[Message]]:
    pack = transfer_pb2.Pack(digests=DIGEST, sizes_bytes=[5], data=b"hello")
    small = transfer_pb2.Pack(
        digests=DIGEST, sizes_bytes=[5], zstd=ZstdCompressor().compress(b"hello")
    )
    piece = transfer_pb2.ManifestPiece(digest=DIGEST, offset_bytes=0, data=b"hello", last=True)
    push, want = transfer_pb2.PushRequest, transfer_pb2.Want(digests=DIGEST, zstd=True)
    return {
        "TransferService/Missing": [
            transfer_pb2.MissingRequest(chunk_digests=DIGEST * 3, manifest_digests=DIGEST)
        ],
        "TransferService/Push": [push(pack=pack), push(pack=small), push(manifest=piece)],
        "TransferService/Fetch": [transfer_pb2.FetchRequest(want=want, credit_bytes=1 << 20)],
        "TransferService/Manifest": [transfer_pb2.ManifestRequest(digest=DIGEST)],
        "TransferService/Take": [transfer_pb2.TakeRequest(digest=DIGEST)],
    }


def _records(home: Home) -> dict[str, Sequence[Message]]:
    pen = Pen(Signer.of(Identity.load_or_make(home)), 1 << 20)
    entries = [Entry("run", f"key-{number}", b"what is said") for number in range(3)]
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    stream = pen.write(None, entries, Hybrid(now_ms), now_ms)
    known = records_pb2.StreamVersion(writer=PEER, incarnation=1, seq=1, tie=7)
    return {
        "RecordService/Exchange": [records_pb2.RecordServiceExchangeRequest(known=[known])],
        "RecordService/Push": [
            records_pb2.RecordServicePushRequest(frame=frame)
            for frame in frames(stream.since(NOTHING))
        ],
        "RecordService/Agents": [records_pb2.AgentsRequest()],
        "RecordService/Tails": [records_pb2.TailsRequest(run_id=RUN)],
    }


def _roster(home: Home) -> dict[str, Sequence[Message]]:
    membership = member(home)
    scribe = own_scribe(home, membership)
    said = scribe.write(Roster.of(membership.mesh_id), [Admit(PEER, Role.READER, "ws", "7K3V")], AT)
    request = make_request(Identity.load_or_make(home))
    return {
        "RosterService/Exchange": [
            roster_pb2.ExchangeRequest(
                heads=[roster_pb2.Head(issuer=PEER, seq=1, digest=DIGEST)],
                statements=[signed_to_wire(one.signed) for one in said],
            )
        ],
        "RosterService/Renew": [roster_pb2.RenewRequest(certificate_request=request)],
    }


def _tunnel() -> dict[str, Sequence[Message]]:
    key = convert.key_to_wire(machines.key())
    carry, beside = tunnel_pb2.CarryRequest, tunnel_pb2.ExecRequest
    window = tunnel_pb2.Window(rows=24, columns=80)
    command = tunnel_pb2.Command(key=key, words=["id", "-u"], terminal="xterm", window=window)
    return {
        "TunnelService/Apps": [tunnel_pb2.AppsRequest(key=key)],
        "TunnelService/Carry": [
            carry(begin=key),
            carry(open=tunnel_pb2.Open(connection=1, port=0)),
            carry(frame=tunnel_pb2.Frame(connection=1, data=b"hello")),
            carry(frame=tunnel_pb2.Frame(connection=1, credit_bytes=5)),
            carry(frame=tunnel_pb2.Frame(connection=1, end=tunnel_pb2.End())),
            carry(frame=tunnel_pb2.Frame(connection=1, broken="gone")),
        ],
        "TunnelService/Exec": [
            beside(begin=command),
            beside(frame=tunnel_pb2.Frame(connection=0, data=b"hello")),
            beside(frame=tunnel_pb2.Frame(connection=0, end=tunnel_pb2.End())),
            beside(frame=tunnel_pb2.Frame(connection=1, credit_bytes=5)),
            beside(frame=tunnel_pb2.Frame(connection=2, broken="gone")),
            beside(window=window),
            beside(interrupt=tunnel_pb2.Interrupt()),
        ],
    }


def _evidence() -> dict[str, Sequence[Message]]:
    vouch = evidence_pb2.VouchRequest(run_id=RUN, job=0)
    vouch.specification.SetInParent()
    return {
        "EvidenceService/Vouch": [vouch],
        "EvidenceService/Tell": [evidence_pb2.TellRequest(run_id=RUN)],
    }
