"""Where the containers of a gang meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_agent.executor.meeting import EVERY_ADDRESS, Meeting, has_address, meet
from dstack_scheduler.job import Node

GATEWAY = "172.18.0.1"


@pytest.mark.parametrize(
    ("master", "published", "told"),
    [
        ("10.0.0.7:29500", "10.0.0.7", "10.0.0.7:29500"),
        ("[fd00::7]:29500", "fd00::7", "[fd00::7]:29500"),
        ("127.0.0.1:29500", GATEWAY, f"{GATEWAY}:29500"),
        ("localhost:29500", GATEWAY, f"{GATEWAY}:29500"),
        ("[::1]:29500", GATEWAY, f"{GATEWAY}:29500"),
    ],
)
def test_the_others_go_where_the_machine_leads_to_the_master(
    master: str, published: str, told: str
) -> None:
    own = meet(Node(0, 2, master), GATEWAY, lambda host: True)
    assert own == Meeting(Node(0, 2, f"{EVERY_ADDRESS}:29500"), published)
    assert own.port == 29500
    assert meet(Node(1, 2, master), GATEWAY) == Meeting(Node(1, 2, told))


@pytest.mark.parametrize("master", ["203.0.113.9:29500", "ws-1.lab:29500"])
def test_a_machine_that_is_reached_by_what_it_has_not_itself_leads_from_all_it_has(
    master: str,
) -> None:
    assert meet(Node(0, 2, master), GATEWAY, lambda host: False).published == "0.0.0.0"


@given(st.integers(1, 7), st.ip_addresses(v=4).map(str))
def test_none_but_the_master_opens_a_port(rank: int, host: str) -> None:
    assert meet(Node(rank, 8, f"{host}:29500"), GATEWAY).published == ""


def test_addresses_of_this_machine_are_known() -> None:
    assert has_address("127.0.0.1")
    assert not has_address("203.0.113.9")
    assert not has_address("ws-1.lab")
