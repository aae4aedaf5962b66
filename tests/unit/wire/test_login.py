"""Where an agent says that a person gets in over SSH: words that end up in her ssh's settings."""

import pytest

from dstack_mesh.faults import Invalid
from dstack_mesh.v1 import tunnel_pb2 as pb
from dstack_scheduler.app import Login
from dstack_scheduler.wire import convert
from dstack_scheduler.wire.tunnel import offered_from_wire
from support.machines import key


def answer(user: str, folder: str = "/home/sue/work") -> pb.AppsResponse:
    wire = convert.key_to_wire(key())
    return pb.AppsResponse(key=wire, login=pb.Login(user=user, folder=folder))


@pytest.mark.parametrize("user", ["sue", "s.u_e-2", "svc$", "sue@lab.example"])
def test_a_user_of_a_system_is_one(user: str) -> None:
    assert offered_from_wire(answer(user)).login == Login(user, "/home/sue/work")


@pytest.mark.parametrize(
    "user", ["", "-oProxyCommand=x", "a b", "a\nProxyCommand x", 'a"', "%h", "${HOME}", "a" * 999]
)
def test_what_ssh_could_take_for_something_else_is_refused(user: str) -> None:
    with pytest.raises(Invalid):
        offered_from_wire(answer(user))


def test_a_folder_is_one_line() -> None:
    with pytest.raises(Invalid):
        offered_from_wire(answer("sue", "/a\nb"))


def test_an_agent_without_says_nothing() -> None:
    assert offered_from_wire(pb.AppsResponse(key=convert.key_to_wire(key()))).login is None
