"""What the shim of a container is told. Standard library only: the shim imports it."""

import json


class ContainerTask:
    """A container that was created, for a shim to start and tend.

    Attributes:
        engine: The engine's socket.
        container: The container's id.
        given: What it reads from its standard input: its secrets; never written to a file.
        grace_seconds: Between the polite and the impolite signal.
        limit_seconds: Longest run; 0 for no limit.
        wake: The agent's datagram socket; empty for none.
        locks: Names of host-wide locks to hold while the job runs.
        adopt: Another shim started it and died.
        log_bytes: What its log may take on the disk; 0 for no limit.
        hidden: Values that must not be in its log; never written to a file.
    """

    __slots__ = (
        "adopt",
        "container",
        "engine",
        "given",
        "grace_seconds",
        "hidden",
        "limit_seconds",
        "locks",
        "log_bytes",
        "wake",
    )

    def __init__(
        self,
        engine: str,
        container: str,
        given: str = "",
        grace_seconds: float = 10.0,
        limit_seconds: float = 0.0,
        wake: str = "",
        locks: list[str] | None = None,
        adopt: bool = False,
        log_bytes: int = 0,
        hidden: list[str] | None = None,
    ) -> None:
        self.engine = engine
        self.container = container
        self.given = given
        self.grace_seconds = grace_seconds
        self.limit_seconds = limit_seconds
        self.wake = wake
        self.locks = locks or []
        self.adopt = adopt
        self.log_bytes = log_bytes
        self.hidden = hidden or []

    def encode(self) -> bytes:
        """The bytes for the shim."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ContainerTask":
        """The task in the bytes. Raises ValueError if they are not a whole one."""
        return cls(**json.loads(data))

    def without_secrets(self) -> "ContainerTask":
        """The task as it may be written to a file, for a shim that adopts the container."""
        return ContainerTask(
            self.engine,
            self.container,
            "",
            self.grace_seconds,
            self.limit_seconds,
            self.wake,
            self.locks,
            True,
            self.log_bytes,
        )
