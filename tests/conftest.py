"""Fixtures that every kind of test may use, and the rule for parts that are missing here."""

import os
import signal
import socket
from collections.abc import Generator

import pytest

from support.s3_lab import ceph as ceph
from support.s3_lab import moto as moto
from support.s3_lab import s3 as s3
from support.s3_lab import s3_or_both as s3_or_both

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell in the background has its children ignore Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where all real parts are promised, a test that skips for want of one has failed."""
    report = yield
    promised = os.environ.get("DSTACK_TEST_ALL_PARTS") == "1"
    if report.skipped and promised and item.get_closest_marker("may_skip") is None:
        report.outcome = "failed"
    return report
