"""The text of what keeps an agent running on its host: a systemd unit of its user, or a script."""

import shlex
from collections.abc import Sequence

UNIT = """\
# Written by `dstack agents add`; written anew when it is run again.
[Unit]
Description=dstack agent: runs jobs for the members of its mesh
Documentation=https://pypi.org/project/dstack-mesh/
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/bin/sh {serve}
WorkingDirectory={home}
Restart=on-failure
RestartSec=5
TimeoutStartSec=60
TimeoutStopSec=20
WatchdogSec=60

# Jobs outlive the agent: their shims are in this unit's control group, and the next agent takes
# them up. Only the agent's own process is ended, and the end of a job that took too much memory is
# the job's alone.
KillMode=process
OOMPolicy=continue
TasksMax=infinity

# What binds the agent binds its jobs. So nothing here needs a namespace (ProtectSystem, PrivateTmp,
# PrivateDevices): the manager of a user makes a user namespace for them, in which files of others
# have no owner and containers without root do not start; and it cannot where the system forbids it.
UMask=0077
LimitCORE=0:infinity
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=default.target
"""

SERVE = """\
#!/bin/sh
# Written by `dstack agents add`; written anew when it is run again.
{path}exec {runner} start {options}
"""


def unit_text(serve: str, home: str) -> str:
    """The unit.

    Args:
        serve: Path of the script.
        home: The agent's folder.
    """
    return UNIT.format(serve=_quoted(serve), home=home.replace("%", "%%"))


def serve_text(runner: str, home: str, listen: str, name: str, path: str) -> str:
    """The script that becomes the agent.

    Args:
        runner: Path of `dstack-runner`.
        home: The agent's folder.
        listen: HOST:PORT; "" for the usual one.
        name: What members call it; "" for the host's name.
        path: Where the host's user finds commands, for jobs; a manager has a shorter one.
    """
    options: Sequence[str] = (
        *("--home", home),
        *(("--listen", listen) if listen else ()),
        *(("--name", name) if name else ()),
    )
    return SERVE.format(
        path=f"PATH={shlex.quote(path)}\nexport PATH\n" if path else "",
        runner=shlex.quote(runner),
        options=shlex.join(options),
    )


def _quoted(path: str) -> str:
    """A path as `ExecStart=` takes it for an argument; a program's name could hold no quotes."""
    for letter, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        path = path.replace(letter, written)
    return f'"{path}"'
