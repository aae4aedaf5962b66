"""Which host a person means, and what ssh says of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.enrolling.ssh_trouble import of_ssh
from dstack_cli.enrolling.target import (
    Target,
    check_identity,
    check_listen,
    check_name,
    parse_target,
)
from dstack_cli.misused import Misused


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ws-3", Target("ws-3")),
        ("mara@ws-3", Target("ws-3", "mara")),
        ("mara@ws-3:2222", Target("ws-3", "mara", 2222)),
        ("10.0.0.7:22", Target("10.0.0.7", "", 22)),
        ("fd00::1", Target("fd00::1")),
        ("mara@[fd00::1]:2222", Target("fd00::1", "mara", 2222)),
        ("DOMAIN\\mara@ws_3", Target("ws_3", "DOMAIN\\mara")),
    ],
)
def test_a_host_is_read_as_people_write_it(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    ["", "@ws-3", "-oProxyCommand=x", "mara@-x", "-x@ws-3", "ws 3", "ws-3:", "ws-3:0", "ws:99999"],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(Misused) as refused:
        parse_target(text)
    assert refused.value.code == "bad-ssh-target"


def test_a_key_is_found_from_wherever_it_is_used_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = [check_identity(text) for text in ("", "key", "~/key", str(tmp_path / "key"))]
    assert found == ["", *[str(tmp_path / "key")] * 3]
    for text in ("no-key", "~/no-key", str(tmp_path)):
        with pytest.raises(Misused):
            check_identity(text)


@pytest.mark.parametrize("text", ["7420", ":7420", "0.0.0.0:x", "0.0.0.0:99999", "::1:7420"])
def test_where_it_cannot_listen_is_told_before_ssh_is_asked(text: str) -> None:
    for fine in ("", "0.0.0.0:7420", "[::]:7420"):
        check_listen(fine)
    with pytest.raises(Misused):
        check_listen(text)


@pytest.mark.parametrize("text", ["ws 3", "ws\t3", "x" * 64])
def test_a_name_is_one_word(text: str) -> None:
    check_name("ws-3")
    with pytest.raises(Misused):
        check_name(text)


@given(st.text(max_size=20) | st.from_regex(r"-?[a-z]+@?-?[a-z.]*:?[0-9]*", fullmatch=True))
def test_no_text_becomes_an_option_of_ssh(text: str) -> None:
    try:
        words = parse_target(text).words
    except Misused:
        return
    assert words[-2] == "--"
    assert not any(word.startswith("-") and word not in ("-l", "-p", "--") for word in words)
    assert not any(letter.isspace() for word in words for letter in word)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("ssh: Could not resolve hostname x: Name or service not known", "ssh-no-such-host"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "ssh-host-key-changed"),
        ("Host key verification failed.", "ssh-host-unknown"),
        ("m@x: Permission denied (publickey).", "ssh-permission-denied"),
        ("Received disconnect from x: Too many authentication failures", "ssh-permission-denied"),
        ("ssh: connect to host x port 22: Connection refused", "ssh-refused"),
        ("ssh: connect to host x port 22: Connection timed out", "ssh-no-answer"),
        ("command-line: line 0: Bad configuration option: nosuch", "ssh-option"),
        ("something that nobody has seen yet", "ssh-failed"),
        ("", "ssh-failed"),
    ],
)  # fmt: skip
def test_what_ssh_says_has_a_code_and_a_fix(said: str, code: str) -> None:
    error = of_ssh(Target("x", "m", 2222), said)
    assert error.code == code
    assert error.hint
    assert not said or said.splitlines()[-1].strip() in f"{error.why}{said}"


def test_a_fix_can_be_pasted() -> None:
    error = of_ssh(Target("ws-3", "mara", 2222), "REMOTE HOST IDENTIFICATION HAS CHANGED")
    assert "ssh-keygen -R '[ws-3]:2222'" in error.hint
    assert "ssh -p 2222 mara@ws-3" in error.hint
