"""What a workflow says of the environment that is installed for its job."""

from enum import Enum


class Prebuild(Enum):
    """Whether what is installed serves other jobs; the value is the word of a workflow."""

    USUAL = ""
    """Installed once for all jobs that want the same."""
    FORCE = "force"
    """Installed anew, and from then on in place of what was there."""
    NEVER = "never"
    """Installed for this job alone."""
