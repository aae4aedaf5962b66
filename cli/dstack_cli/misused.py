"""The error of a command line that cannot be meant."""

from dstack_mesh.faults import Fault, MeshError


class Misused(MeshError):
    """The command line or the workflow files are wrong; nothing was started. Exits with 2."""

    fault = Fault.INVALID
