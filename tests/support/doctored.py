"""What `dstack doctor` says, as rows and as its exit code."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from support.lab import Peer

SLOWEST_SECONDS = 6.0
"""On a machine that does other things too; alone it is under five."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What doctor said."""

    code: int
    findings: list[dict[str, str]]
    took: float

    def of(self, check: str) -> list[tuple[str, str]]:
        """Grades and causes of a check's findings."""
        return [(one["grade"], one["cause"]) for one in self.findings if one["check"] == check]

    def said(self, check: str) -> str:
        return " ".join(one["message"] for one in self.findings if one["check"] == check)

    def fix(self, check: str) -> str:
        return " ".join(one["fix"] for one in self.findings if one["check"] == check)

    def bad(self) -> set[tuple[str, str, str]]:
        """Whatever is no pass."""
        return {
            (one["check"], one["grade"], one["cause"])
            for one in self.findings
            if one["grade"] != "pass"
        }


def doctor(peer: Peer, *arguments: str, cwd: Path | None = None) -> Seen:
    began = time.monotonic()
    ended = peer.dstack("doctor", *arguments, "--json", cwd=cwd)
    took = time.monotonic() - began
    assert ended.returncode in (0, 1), ended.stderr.decode()
    seen = Seen(ended.returncode, json.loads(ended.stdout)["items"], took)
    for one in seen.findings:
        if one["grade"] != "pass":
            print(f"{one['check']}: {one['grade']} {one['cause']}: {one['message']}")
            print(f"    fix: {one['fix']}")
            assert one["cause"], one
            assert one["fix"], one
    failed = any(one["grade"] == "fail" for one in seen.findings)
    assert seen.code == int(failed)
    return seen
