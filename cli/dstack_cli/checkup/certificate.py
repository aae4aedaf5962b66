"""This home's place in a mesh: its certificate, and whether the clock can be what is wrong."""

import ctypes
from collections.abc import Sequence
from datetime import datetime, timedelta

from dstack_cli.checkup.finding import Finding, failed, passed, warned
from dstack_mesh.faults import MeshError
from dstack_mesh.home import Home
from dstack_mesh.trust.membership import Membership

SOON = timedelta(days=7)
JOIN_AGAIN = "dstack mesh invite   (on a machine that may invite), then here: dstack mesh join CODE"
SET_CLOCK = "sudo timedatectl set-ntp true"

_UNSYNCHRONIZED = 0x40
"""STA_UNSYNC of adjtimex(2)."""


def check_membership(home: Home, now: datetime) -> Sequence[Finding]:
    """Whether this home belongs to a mesh, and until when."""
    try:
        membership = Membership.load(home)
    except MeshError as error:
        return [failed("mesh", error.code, str(error), error.hint)]
    if membership is None:
        return [passed("mesh", "no mesh joined: runs stay on this machine (dstack mesh join CODE)")]
    return [judged(membership, now, synchronized())]


def judged(membership: Membership, now: datetime, in_step: bool | None) -> Finding:
    """What the certificate's time says.

    Args:
        in_step: Whether the kernel says that the clock follows a time server; None if unknown.
    """
    doubt = " No time server keeps that clock right." if in_step is False else ""
    try:
        membership.check_valid(now)
    except MeshError as error:
        behind = now < membership.not_before
        # A certificate cannot be from the future, so the clock is behind.
        fix = SET_CLOCK if behind or doubt else JOIN_AGAIN
        if doubt and not behind:
            fix = f"{SET_CLOCK}   (if the clock is right: {JOIN_AGAIN})"
        cause = "clock-off" if behind else "certificate-expired"
        return failed("mesh", cause, f"{error}{doubt}", fix)
    message = (
        f'member of "{membership.mesh_name}" as {membership.role.value},'
        f" certificate good until {membership.not_after:%F}"
    )
    if membership.not_after - now < SOON:
        left = (membership.not_after - now) / timedelta(hours=1)
        return warned(
            "mesh", "certificate-soon", f"{message}, {left:.0f} hours from now", JOIN_AGAIN
        )
    return passed("mesh", message)


def synchronized() -> bool | None:
    """Whether a time server disciplines this machine's clock, as the kernel knows it."""
    try:
        adjust = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    timex = ctypes.create_string_buffer(512)  # modes = 0: only reads
    if adjust(timex) < 0:
        return None
    # int modes, padding, four longs: offset, freq, maxerror, esterror; then int status.
    status = ctypes.c_int.from_buffer(timex, 5 * ctypes.sizeof(ctypes.c_long)).value
    return not status & _UNSYNCHRONIZED
