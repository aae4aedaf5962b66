"""Whether jobs of others have masks on this machine, and what helps where they have none.

It is tried, not read: a system has several ways to refuse, and a container's own one more.
"""

import asyncio
import logging
import subprocess
import sys
from functools import lru_cache

from dstack_agent.executor import masks

HINT = (
    "Allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu),"
    " kernel.unprivileged_userns_clone=1 (Debian), user.max_user_namespaces and"
    " user.max_mnt_namespaces above 0; then start the agent again."
)

_SECONDS = 20.0

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)  # a job that falls back because its like used up all namespaces would be open
def why_no_masks() -> str:
    """Why no job here can have mounts of its own, as a sentence; empty if they can. Blocks."""
    command = (sys.executable, "-I", "-S", "-E", masks.__file__)
    try:
        tried = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"It could not be tried: {error}."
    if tried.returncode == 0:
        return ""
    said = (tried.stdout or tried.stderr).decode(errors="replace").strip().splitlines()
    return f"The system refuses namespaces to this user: {said[-1] if said else 'it was ended'}."


async def warn_without_masks() -> None:
    """Says once in the log what jobs of others reach here, if they have no masks."""
    why = await asyncio.to_thread(why_no_masks)
    if why:
        log.warning("jobs of others reach the sockets of this user. %s %s", why, HINT)
