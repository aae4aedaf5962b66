"""Services that speak S3, started by the tests: moto in a second, Ceph's RGW in about fifteen.

Ceph is one monitor, one OSD on a file of 6 GiB that takes the room it needs, and one gateway, all
below a folder of their own; it is ended by the ids that it wrote down. Without root, or without
Ceph, the tests that want it are skipped with the reason.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dstack_mesh.faults import MeshError
from dstack_mesh.remotes.configured import Bucket
from support.eventually import eventually
from support.rounds import rounds

PARTS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

CEPH = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 6442450944
osd memory target = 939524096
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/run/$name.log
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}
"""


@dataclass(frozen=True, slots=True)
class S3Service:
    """A service that answers, and credentials that it takes."""

    name: str
    port: int
    access_key: str
    secret_key: str

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a person exports."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nowhere/config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
        }

    def behind(self, port: int) -> "S3Service":
        """The same, reached by another port."""
        return replace(self, port=port)

    def bucket(self, name: str = "") -> Bucket:
        """A place there; a fresh name unless one is given. It is not made."""
        return Bucket(name or f"lab-{secrets.token_hex(6)}", "", self.endpoint)

    @contextmanager
    def credentials(self) -> Generator[None]:
        """This process has the credentials while the block runs."""
        before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def made(self, name: str = "") -> Bucket:
        """A new bucket."""
        from dstack_mesh.remotes.s3 import S3Objects  # boto3, which most tests do without

        place = self.bucket(name)
        with self.credentials():
            S3Objects(place).make_bucket()
        return place


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Service]:
    """moto's server in a process of its own."""
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            service = S3Service("moto", port, "moto-key", "moto-secret")
            eventually(lambda: _listens(port), within=30, every=0.05)
            yield service
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Service]:
    """Ceph's gateway over a cluster of its own."""
    missing = [part for part in PARTS if shutil.which(part) is None]
    if os.getuid() != 0 or missing:
        pytest.skip(f"Ceph cannot be started: {', '.join(missing) or 'not root'}")
    with tempfile.TemporaryDirectory(prefix="dstack-ceph-", ignore_cleanup_errors=True) as folder:
        cluster = _Ceph(Path(folder))
        try:
            yield cluster.start()
        finally:
            cluster.stop()


def one_or_both(one: str) -> list[str]:
    """The service that the check uses, or with DSTACK_CHAOS_ROUNDS above 1 every one."""
    return [one] if rounds(1) == 1 else ["moto", "ceph"]


@pytest.fixture(params=one_or_both("ceph"))
def s3_or_both(request: pytest.FixtureRequest) -> S3Service:
    """The real service; in the long run each of them."""
    service: S3Service = request.getfixturevalue(request.param)
    return service


@pytest.fixture(params=["moto", "ceph"])
def s3(request: pytest.FixtureRequest) -> S3Service:
    """Each of the services."""
    service: S3Service = request.getfixturevalue(request.param)
    return service


class _Ceph:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._conf = folder / "ceph.conf"
        self._port = _free_port()

    def start(self) -> S3Service:
        folder, fsid = self._folder, str(uuid.uuid4())
        for name in ("mon", "osd", "run"):
            (folder / name).mkdir()
        mon_port = _free_port()
        self._conf.write_text(
            CEPH.format(folder=folder, fsid=fsid, mon_port=mon_port, port=self._port)
        )
        monmap, osd = folder / "monmap", str(uuid.uuid4())
        address = f"v1:127.0.0.1:{mon_port}"
        self._do("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, str(monmap))
        self._do("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._do("ceph-mon", "-i", "a")
        number = eventually(lambda: self._new_osd(osd), within=60, every=0.2)
        self._do("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", osd)
        self._start_osd(number)
        self._do("radosgw", "-n", "client.rgw")
        service = S3Service("ceph", self._port, "ceph-key", "ceph-secret")
        keys = (f"--access-key={service.access_key}", f"--secret-key={service.secret_key}")
        user = ("user", "create", "--uid=lab", "--display-name=lab", *keys)
        self._do("radosgw-admin", "-n", "client.rgw", *user)
        eventually(lambda: _listens(self._port), within=60, every=0.1)
        eventually(lambda: _takes_buckets(service), within=60, every=0.2)
        return service

    def _new_osd(self, osd: str) -> str:
        """The number it is given; none while the monitor has just started and takes no command."""
        try:
            return self._do("ceph", "osd", "new", osd).strip()
        except AssertionError as failed:
            if "problem getting command descriptions" not in str(failed):
                raise
            return ""

    def _start_osd(self, number: str) -> None:
        """It gives up if it asks the monitor before it was told of it, and at times without a
        word; then it is started again."""
        for left in (2, 1, 0):
            try:
                self._do("ceph-osd", "-i", number)
                return
            except AssertionError as failed:
                log = self._folder / "run" / f"osd.{number}.log"
                told = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:])
                print(f"{failed}\n{told}", file=sys.stderr)
                if left == 0:
                    raise AssertionError(f"{failed}\n{told}") from failed

    def stop(self) -> None:
        """Ends what was started, gateway first."""
        pids = [int(file.read_text()) for file in sorted((self._folder / "run").glob("*.pid"))]
        for pid in reversed(pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with suppress(AssertionError):
                eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), within=10)

    def _do(self, program: str, *arguments: str) -> str:
        ended = subprocess.run(
            (program, "-c", str(self._conf), *arguments)
            if program != "monmaptool"
            else (program, *arguments),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode != 0:
            raise AssertionError(f"{program} {arguments}: {ended.stdout}{ended.stderr}")
        return ended.stdout


def _takes_buckets(service: S3Service) -> bool:
    try:
        service.made()
    except MeshError:
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
