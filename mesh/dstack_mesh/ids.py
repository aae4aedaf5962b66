"""Names of things, each a type of its own."""

from typing import NewType

PeerId = NewType("PeerId", str)
"""Hash of a peer's public key: 32 lower-case base32 characters."""

MeshId = NewType("MeshId", str)
"""Hash of a mesh's root key: 32 lower-case base32 characters."""

RunId = NewType("RunId", str)
"""26 characters, unique for ever, sorting by time of submission."""

RunName = NewType("RunName", str)
"""What people call a run: "lazy-bobcat-1"."""

Digest = NewType("Digest", bytes)
"""BLAKE3 of some bytes: 32 bytes."""

HoldId = NewType("HoldId", str)
"""Names a hold on an agent's resources."""

Address = NewType("Address", str)
"""Where something may listen: "HOST:PORT", "[V6]:PORT" or "unix:PATH"; never more than a hint."""
