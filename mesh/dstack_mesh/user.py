"""Who runs this process."""

import os
import pwd
from pathlib import Path


def user_name() -> str:
    """The user's name; their number where the system has no name for it, as in many containers."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def user_home() -> Path | None:
    """The user's home; None where neither HOME nor the system names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None
