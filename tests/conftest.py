"""Fixtures that every kind of test may use, and the rule for parts that are missing here."""

import gc
import os
import signal
import socket
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support import whole_run
from support.s3_lab import ceph as ceph
from support.s3_lab import moto as moto
from support.s3_lab import s3 as s3
from support.s3_lab import s3_or_both as s3_or_both

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell in the background has its children ignore Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. What shall be fast is measured by itself.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

# A command would compile every module of ours each time that a test starts it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A whole run is shared out, where pytest-xdist is."""
    if config.pluginmanager.has_plugin("xdist") and whole_run.is_whole(config):
        whole_run.share_out(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What shares a part of the machine stays together."""
    whole_run.check(items)
    if whole_run.is_a_part(config):
        whole_run.arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files, and groups of files, are never divided."""
    return whole_run.scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_open() -> Generator[None]:
    """What nobody closed fails the last test: of a process of a whole run nobody hears later."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def in_turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[None]:
    """What measures time has the machine for itself, also in a whole run."""
    if not whole_run.is_a_part(request.config):
        yield
        return
    alone = request.node.get_closest_marker("timed") is not None
    with whole_run.turn(tmp_path_factory.getbasetemp().parent, alone):
        yield


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
