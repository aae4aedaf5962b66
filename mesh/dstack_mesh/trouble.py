"""How trouble is told to a person, the same by every command."""

from dstack_mesh.faults import MeshError


def render(error: MeshError) -> str:
    """What happened and its code, why, what would fix it; a line each, no newline at the end."""
    lines = [f"{error.what.rstrip('.')} ({error.code})."]
    lines += [f"  {line}" for line in error.why.splitlines()]
    lines += [f"  fix: {line}" for line in error.hint.splitlines()]
    return "\n".join(lines)
