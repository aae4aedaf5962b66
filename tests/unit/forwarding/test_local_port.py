"""Which port of this machine leads to an app."""

import socket

import pytest

from dstack_cli.forwarding.local_port import bind_local
from dstack_mesh.faults import Refused


def test_the_same_port_if_it_is_free_else_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with bind_local(free, exactly=False) as first:
        assert first.getsockname() == ("127.0.0.1", free)
        with bind_local(free, exactly=False) as second:
            assert second.getsockname()[1] > free


def test_a_port_that_was_named_is_that_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as refused:
            bind_local(port, exactly=True)
        assert refused.value.code == "local-port-taken"


def test_what_nobody_may_bind_leads_to_another() -> None:
    with bind_local(65535, exactly=False) as one, bind_local(65535, exactly=False) as two:
        assert one.getsockname()[1] != two.getsockname()[1]
