"""What a shim is asked for by whoever wants a command beside its job. Standard library only: the
shim imports it.

One packet with three descriptors asks; packets answer: that the command runs, and how it ended. The
hatch is a socket in the job's folder, and who comes must know what a file beside it holds: walls
keep jobs of others from that file, and nothing keeps them from a socket.
"""

HATCH, KEY = "hatch", "hatch.key"
"""In a job's folder: where it is asked, and what who asks must know."""

KEY_BYTES = 32
MOST_BYTES = 128 * 1024
"""Of one packet; a socket's buffer takes more."""

RUNS, INTERRUPT = b"runs", b"interrupt"
"""What is answered once the command runs, and what is said to have it interrupted."""


class Asked:
    """A command.

    Attributes:
        argv: Program and arguments; the program is looked for in the job's PATH.
        terminal: The kind of terminal that the three descriptors are; empty for none.
    """

    __slots__ = ("argv", "terminal")

    def __init__(self, argv: "list[str]", terminal: str = "") -> None:
        self.argv = argv
        self.terminal = terminal

    def encode(self, key: bytes) -> bytes:
        """The packet. Raises ValueError if it cannot be one."""
        fields = [self.terminal, *self.argv]
        packet = key + "\0".join(fields).encode("utf-8", "surrogateescape")
        if len(packet) > MOST_BYTES or packet.count(b"\0", len(key)) != len(self.argv):
            raise ValueError("a command that is too long, or a NUL character in it")
        return packet

    @classmethod
    def decode(cls, packet: bytes, key: bytes) -> "Asked | None":
        """What is asked for; None if whoever asks does not know the key."""
        import hmac  # only who is asked pays for it

        if not hmac.compare_digest(packet[: len(key)], key):
            return None
        terminal, *argv = packet[len(key) :].decode("utf-8", "surrogateescape").split("\0")
        return cls(argv, terminal)


def ended(code: int, why: str = "") -> bytes:
    """The packet that says how a command ended; `why` only of one that did not start."""
    return f"{code} {why}".encode("utf-8", "surrogateescape")


def end_in(packet: bytes) -> "tuple[int, str]":
    """Exit code, and why it did not start. Raises ValueError."""
    code, _, why = packet.decode("utf-8", "surrogateescape").partition(" ")
    return int(code), why
