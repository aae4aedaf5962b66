"""What of a workflow the agent installs and keeps, and what the job does itself."""

import pytest

from dstack_scheduler.providers.installs import installs_of, preparation
from dstack_scheduler.workflow.model import Workflow


def workflow(*setup: str, requirements: str = "", image: str = "") -> Workflow:
    return Workflow("w", "bash", setup=setup, requirements=requirements, image=image)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("pip install torch", "torch"),
        ("pip install 'numpy>=1.2' a[b]", "'numpy>=1.2' 'a[b]'"),
        ("pip3 install -r more.txt -q", "-r more.txt"),
        ("uv pip install a", "a"),
        ("python -m pip install a --index-url https://host/x", "a --index-url https://host/x"),
        ("pip install git+https://h/x@c#egg=x", "'git+https://h/x@c#egg=x'"),
        ("pip install -U pip", "-U pip"),
    ],
)
def test_a_plain_install_that_setup_begins_with_is_the_agent_s(
    command: str, arguments: str
) -> None:
    plain = workflow(command, "make")
    assert installs_of(plain) == (arguments,)
    assert preparation(plain) == ("make",)


@pytest.mark.parametrize(
    "command",
    [
        "pip install numpy>=1.2",
        "pip install a && ls",
        "pip install a; rm b",
        "pip install a &",
        "pip install a | tee log",
        "pip install $NAME",
        "pip install `cat name`",
        "pip install ./x*",
        "pip install ~/x",
        "pip install {a,b}",
        "pip install a # of ours",
        "pip install -e .",
        "pip install --user a",
        "pip install --target lib a",
        "pip install a -r",
        "pip install 'open",
        "pip download a",
        "FOO=1 pip install a",
        "cd x",
    ],
)
def test_whatever_a_shell_makes_of_a_line_is_left_to_the_shell(command: str) -> None:
    assert installs_of(workflow(command)) == ()
    assert preparation(workflow(command)) == (command,)


def test_installs_after_another_command_stay_where_they_are() -> None:
    mixed = workflow("pip install a", "apt-get install x", "pip install b")
    assert installs_of(mixed, ("tool==1",)) == ("tool==1", "a")
    assert preparation(mixed) == ("apt-get install x", "pip install b")


def test_requirements_come_first_and_a_container_installs_its_own() -> None:
    assert installs_of(workflow("pip install a", requirements="my r.txt")) == ("-r 'my r.txt'", "a")
    boxed = workflow("pip install a", requirements="r.txt", image="x")
    assert installs_of(boxed, ("tool",)) == ()
    assert preparation(boxed) == ("python -m pip install -r r.txt", "pip install a")
