"""What a shim is told over its standard input. Standard library only: the shim imports it.

Fields are separated by NUL, which neither arguments nor the environment can hold, so nothing is
escaped and nothing heavy is imported before the job runs. The first field counts them and the last
one is a mark: a launcher that dies half-way starts nothing.
"""

_END = "end"


class Task:
    """A job for a shim.

    Attributes:
        argv: Program and arguments.
        cwd: Where it starts; made if missing.
        env: Its whole environment, secrets too.
        secrets: Values by name that it finds as files in memory.
        hidden: Values that must not be in its log.
        grace_seconds: Between the polite and the impolite signal.
        limit_seconds: Longest run; 0 for no limit.
        wake: The agent's datagram socket; empty for none.
        log_bytes: What its log may take on the disk; 0 for no limit.
        locks: Names of host-wide locks to hold while the job runs.
        walled: Whether it gets at nothing but the paths that follow.
        writable: Paths at and below which it may do everything.
        readable: Paths at and below which it may read.
        masks: What is not where it lies, as `masks.put_up` takes it.
    """

    __slots__ = (
        "argv",
        "cwd",
        "env",
        "grace_seconds",
        "hidden",
        "limit_seconds",
        "locks",
        "log_bytes",
        "masks",
        "readable",
        "secrets",
        "wake",
        "walled",
        "writable",
    )

    def __init__(
        self,
        argv: list[str],
        cwd: str,
        env: dict[str, str],
        grace_seconds: float = 10.0,
        limit_seconds: float = 0.0,
        wake: str = "",
        locks: list[str] | None = None,
        log_bytes: int = 0,
        secrets: dict[str, str] | None = None,
        hidden: list[str] | None = None,
        walled: bool = False,
        writable: list[str] | None = None,
        readable: list[str] | None = None,
        masks: list[str] | None = None,
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        self.env = env
        self.grace_seconds = grace_seconds
        self.limit_seconds = limit_seconds
        self.wake = wake
        self.locks = locks or []
        self.log_bytes = log_bytes
        self.secrets = secrets or {}
        self.hidden = hidden or []
        self.walled = walled
        self.writable = writable or []
        self.readable = readable or []
        self.masks = masks or []

    def encode(self) -> bytes:
        """The bytes for the shim. Raises ValueError if a field holds NUL."""
        pairs, named = (
            [part for pair in each.items() for part in pair] for each in (self.env, self.secrets)
        )
        fields = [self.cwd, repr(self.grace_seconds), repr(self.limit_seconds), self.wake]
        fields += [str(self.log_bytes), str(int(self.walled))]
        for group in (
            self.argv,
            pairs,
            self.locks,
            named,
            self.hidden,
            self.writable,
            self.readable,
            self.masks,
        ):
            fields += [str(len(group)), *group]
        fields.append(_END)
        if any("\0" in field for field in fields):
            raise ValueError("a NUL character in the commands or the environment")
        fields.insert(0, str(len(fields)))
        return "\0".join(fields).encode("utf-8", "surrogateescape")

    @classmethod
    def decode(cls, data: bytes) -> "Task":
        """The task in the bytes. Raises ValueError if they are not a whole one."""
        count, *fields = data.decode("utf-8", "surrogateescape").split("\0")
        if count != str(len(fields)) or fields[-1] != _END:
            raise ValueError("the task is cut off")
        cwd, grace, limit, wake, log, walled = fields[:6]
        rest = iter(fields[6:])
        argv, pairs, locks, named, hidden, writable, readable, masks = (
            [next(rest) for _ in range(int(next(rest)))] for _ in range(8)
        )
        env, secrets = (dict(zip(each[::2], each[1::2], strict=True)) for each in (pairs, named))
        return cls(
            argv,
            cwd,
            env,
            float(grace),
            float(limit),
            wake,
            locks,
            int(log),
            secrets,
            hidden,
            bool(int(walled)),
            writable,
            readable,
            masks,
        )
