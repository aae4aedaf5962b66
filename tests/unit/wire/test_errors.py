"""Trouble crosses the wire unchanged."""

import grpc
import pytest
from grpc.aio import Metadata

from dstack_mesh.faults import ERRORS, Busy, Fault, MeshError
from dstack_mesh.wire.errors import (
    FAULT_OF_STATUS,
    STATUS,
    from_rpc_error,
    mesh_error_in,
    to_metadata,
)


def failed_with(
    status: grpc.StatusCode, details: str = "", metadata: Metadata | None = None
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(status, Metadata(), metadata or Metadata(), details)


def test_every_fault_has_a_status_of_its_own() -> None:
    assert set(STATUS) == set(Fault)
    assert len(set(STATUS.values())) == len(Fault)


def test_every_status_has_a_fault_and_the_tables_agree() -> None:
    assert set(FAULT_OF_STATUS) == set(grpc.StatusCode)
    assert all(FAULT_OF_STATUS[status] is fault for fault, status in STATUS.items())


@pytest.mark.parametrize("fault", list(Fault))
def test_an_error_arrives_as_it_was_raised(fault: Fault) -> None:
    raised = ERRORS[fault]("It broke.", "Seen: ☃ 42.", "Mend it.", "a-code")
    metadata = Metadata(*to_metadata(raised))
    arrived = from_rpc_error(failed_with(STATUS[fault], "It broke.", metadata), "ws-2")
    assert type(arrived) is ERRORS[fault]
    assert (arrived.what, arrived.why, arrived.hint, arrived.code) == (
        raised.what,
        raised.why,
        raised.hint,
        raised.code,
    )


@pytest.mark.parametrize(("seconds", "arrives"), [(0.0, 0.0), (0.0201, 0.021), (3.0, 3.0)])
def test_when_to_call_again_arrives_with_the_error(seconds: float, arrives: float) -> None:
    metadata = Metadata(*to_metadata(Busy("Too often.", retry_seconds=seconds)))
    arrived = from_rpc_error(failed_with(STATUS[Fault.BUSY], "", metadata), "ws-2")
    assert isinstance(arrived, Busy)
    assert arrived.retry_seconds == pytest.approx(arrives)


@pytest.mark.parametrize("said", ["-1", "1e9", "9" * 40, "nan", "٣"])
def test_a_peer_cannot_say_nonsense_about_when_to_call_again(said: str) -> None:
    metadata = Metadata(("fault", "busy"), ("retry-ms", said.encode().decode("latin-1")))
    arrived = from_rpc_error(failed_with(STATUS[Fault.BUSY], "", metadata), "ws-2")
    assert isinstance(arrived, Busy)
    assert arrived.retry_seconds == 0.0


def test_a_long_error_fits_into_the_metadata() -> None:
    long = "é" * 100_000
    metadata = to_metadata(Busy(long, long, long, long))
    assert sum(len(key) + len(value) for key, value in metadata) < 8000
    arrived = from_rpc_error(
        failed_with(grpc.StatusCode.RESOURCE_EXHAUSTED, "", Metadata(*metadata)), "ws-2"
    )
    assert arrived.what.startswith("éé")


def test_what_a_peer_says_of_its_trouble_reaches_no_terminal_as_a_command() -> None:
    evil = "\x1b]52;c;cm0gLXJm\x07\x9b2Jbad"
    metadata = Metadata(*to_metadata(Busy(evil, evil, f"one\n{evil}", evil)))
    by_metadata = from_rpc_error(failed_with(STATUS[Fault.BUSY], evil, metadata), "ws-2")
    assert by_metadata.hint.splitlines() == ["one", "]52;c;cm0gLXJm2Jbad"]
    for status in grpc.StatusCode:
        arrived = from_rpc_error(failed_with(status, evil), "ws-2")
        for one in (arrived, by_metadata):
            texts = (one.what, one.why, one.code, *one.hint.splitlines())
            assert all(text.isprintable() for text in texts)


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_a_status_of_grpc_itself_names_the_peer(status: grpc.StatusCode) -> None:
    arrived = from_rpc_error(failed_with(status, "details"), "ws-2")
    assert arrived.fault is FAULT_OF_STATUS[status]
    assert "ws-2" in arrived.what


def test_a_certificate_of_somebody_else_is_told_as_such() -> None:
    details = "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED: self signed"
    arrived = from_rpc_error(failed_with(grpc.StatusCode.UNAVAILABLE, details), "ws-2")
    assert arrived.code == "not-that-peer"
    assert "clock" in arrived.hint


def test_an_invented_fault_of_a_newer_peer_is_read_by_its_status() -> None:
    metadata = Metadata(("fault", "from-the-future"))
    arrived = from_rpc_error(failed_with(grpc.StatusCode.ABORTED, "x", metadata), "ws-2")
    assert arrived.fault is Fault.CONFLICT


def test_the_error_inside_a_task_group_is_found() -> None:
    error = Busy("It is in use.")
    group = ExceptionGroup("a", [ExceptionGroup("b", [ValueError(), error])])
    assert mesh_error_in(group) is error
    assert mesh_error_in(ExceptionGroup("a", [ValueError()])) is None
    assert mesh_error_in(ValueError()) is None
    assert isinstance(mesh_error_in(error), MeshError)
