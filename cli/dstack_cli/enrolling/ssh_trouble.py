"""What ssh says when it does not get through, as a sentence, a reason and a fix.

ssh has one exit code for everything (255), so its words are read. They have been the same for
twenty years; what is not recognised is told as ssh said it.
"""

from collections.abc import Callable

from dstack_cli.enrolling.target import Target
from dstack_mesh.faults import Forbidden, MeshError, Refused, Unreachable

MOST_LINES = 6
"""Of what ssh said, told at most."""


def of_ssh(target: Target, said: str) -> MeshError:
    """Why ssh could not connect."""
    for part, error in _SENTENCES:
        if part in said:
            return error(target, _last_words(said))
    return Unreachable(
        f"ssh does not get through to {target}.",
        _last_words(said) or "It said nothing.",
        f"ssh -v {_pasted(target)}",
        code="ssh-failed",
    )


def no_ssh() -> Refused:
    """There is no ssh on this machine."""
    return Refused(
        "The ssh command is not on this machine.",
        "Your own ssh is used, with your keys and configuration; there is none on PATH.",
        "apt install openssh-client",
        code="ssh-missing",
    )


def lost(target: Target, doing: str) -> Unreachable:
    """The connection broke after it was made."""
    return Unreachable(
        f"The connection to {target} was lost.",
        f"That was while {doing}. What had arrived there is kept.",
        f"dstack agents add {target}   (again: it goes on from there)",
        code="ssh-lost",
    )


def _changed(target: Target, said: str) -> MeshError:
    return Refused(
        f"{target} shows another host key than before.",
        "Either it was installed anew, or somebody stands between. Nothing was sent.",
        "Ask whoever runs it. If it was installed anew:\n"
        f"ssh-keygen -R {_known_as(target)}   (then: ssh {_pasted(target)})",
        code="ssh-host-key-changed",
    )


def _unknown(target: Target, said: str) -> MeshError:
    return Refused(
        f"ssh does not know the host key of {target} yet.",
        "Nobody could be asked, or the answer was no.",
        f"ssh {_pasted(target)}   (once, and compare the fingerprint that it shows)",
        code="ssh-host-unknown",
    )


def _denied(target: Target, said: str) -> MeshError:
    return Forbidden(
        f"{target} does not let you in.",
        said,
        f"ssh-copy-id {_pasted(target)}   (or name a key with --identity, another user as "
        "USER@HOST)",
        code="ssh-permission-denied",
    )


def _key_unusable(target: Target, said: str) -> MeshError:
    return Refused(
        "ssh does not use the key.", said, "chmod 600 the key file", code="ssh-key-unusable"
    )


def _no_such_host(target: Target, said: str) -> MeshError:
    return Unreachable(
        f"There is no host {target.host}.",
        said,
        "Compare the name; a name of your ~/.ssh/config is good too.",
        code="ssh-no-such-host",
    )


def _closed(target: Target, said: str) -> MeshError:
    return Unreachable(
        f"No ssh server answers at {target}.",
        said,
        "Is it on, and is that its port? dstack agents add HOST:PORT\n"
        "On the host: apt install openssh-server",
        code="ssh-refused",
    )


def _far(target: Target, said: str) -> MeshError:
    return Unreachable(
        f"{target} does not answer.",
        said,
        "Is it on and on this network, or behind a jump host of your ~/.ssh/config?",
        code="ssh-no-answer",
    )


def _option(target: Target, said: str) -> MeshError:
    return Refused("ssh does not take these options.", said, "man ssh_config", code="ssh-option")


_SENTENCES: tuple[tuple[str, Callable[[Target, str], MeshError]], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", _changed),
    ("Host key verification failed", _unknown),
    ("Bad configuration option", _option),
    ("Bad owner or permissions", _option),
    ("keyword ", _option),
    ("command-line line 0", _option),
    ("UNPROTECTED PRIVATE KEY FILE", _key_unusable),
    ("Could not resolve hostname", _no_such_host),
    ("Permission denied", _denied),
    ("Too many authentication failures", _denied),
    ("Connection refused", _closed),
    ("Connection closed by", _closed),
    ("kex_exchange_identification", _closed),
    ("timed out", _far),
    ("No route to host", _far),
    ("Network is unreachable", _far),
)
"""The first that is found says what it is."""


def _pasted(target: Target) -> str:
    """The target as ssh's own command takes it."""
    user = f"{target.user}@" if target.user else ""
    port = f"-p {target.port} " if target.port is not None else ""
    return f"{port}{user}{target.host}"


def _known_as(target: Target) -> str:
    """The target's name in `known_hosts`."""
    if target.port in (None, 22):
        return target.host
    return f"'[{target.host}]:{target.port}'"


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and line[:1] != "@"]
    return "\n".join(lines[-MOST_LINES:])
