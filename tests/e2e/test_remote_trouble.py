"""What goes wrong with a remote is told, with why and what would fix it; nothing is half there."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.s3 import S3Objects
from support.alone import alone
from support.eventually import eventually
from support.lab import DSTACK, Peer, make_peer, project, said
from support.rounds import rounds, seeded
from support.s3_lab import S3Service
from support.tcp_proxy import tcp_proxy

WORKFLOWS = """
workflows:
  - name: model
    provider: bash
    commands: [mkdir -p model, "head -c 100000000 /dev/urandom > model/weights"]
    artifacts: [model]
"""

MODEL_BYTES = 100_000_000


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("remote-trouble") / "code", WORKFLOWS)


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Peer]:
    """Somebody who has a run of 100 MB; each test says which remote it goes to."""
    with alone(tmp_path_factory.mktemp("ana"), DSTACK_MDNS="0") as peer:
        ran = peer.dstack("run", "model", cwd=code)
        assert ran.returncode == 0, said(ran)
        yield peer


def at(peer: Peer, service: S3Service, **env: str) -> Peer:
    """The same person with the credentials of a service."""
    return Peer(peer.name, peer.home, (), {**peer.env, **service.environment, **env})


def configured(peer: Peer, place: Bucket, endpoint: str, check: bool = True) -> list[str]:
    words = ("config", "lab", place.url, "--endpoint", endpoint)
    told = peer.dstack(*words, *(() if check else ("--no-check",)))
    assert told.returncode == 0, said(told)
    return told.stderr.decode().splitlines()


def trouble(ended: subprocess.CompletedProcess[bytes]) -> tuple[str, list[str]]:
    """The code of an error, and the lines that say why and what would fix it."""
    assert ended.returncode not in (0, 70), said(ended)
    lines = ended.stderr.decode().splitlines()
    first = next(n for n, line in enumerate(lines) if re.search(r" \([a-z-]+\)\.$", line))
    code = lines[first].rpartition("(")[2].rstrip(").")
    rest = [line for line in lines[first + 1 :] if line.startswith("  ")]
    assert any(line.startswith("  fix: ") for line in rest), said(ended)
    assert any(not line.startswith("  fix: ") for line in rest), said(ended)
    assert "Traceback" not in said(ended)
    return code, lines[first:]


def keys_in(service: S3Service, place: Bucket) -> dict[str, int]:
    with service.credentials():
        return {one.key: one.size_bytes for one in S3Objects(place).listing("")}


def unfinished_in(service: S3Service, place: Bucket) -> int:
    """Multipart uploads that nobody finished or gave up."""
    with service.credentials():
        client = S3Objects(place)._client  # pyright: ignore[reportPrivateUsage]
        return len(client.list_multipart_uploads(Bucket=place.bucket).get("Uploads", []))


def test_an_outage_in_the_middle_is_told_and_the_push_goes_on_from_there(
    s3_or_both: S3Service, ana: Peer, tmp_path: Path, code: Path
) -> None:
    s3 = s3_or_both
    place = s3.made()
    with tcp_proxy(s3.port) as proxy:
        person = at(ana, s3, AWS_MAX_ATTEMPTS="2")
        configured(person, place, s3.behind(proxy.port).endpoint)
        proxy.cut_after = proxy.passed + MODEL_BYTES * 4 // 5
        broken = person.dstack("push", "@")
        told, lines = trouble(broken)
        assert told == "remote-away" and broken.returncode == 69
        assert "not sent twice" in " ".join(lines)
        before = keys_in(s3, place)
        assert not [key for key in before if key.startswith(("manifests/", "records/"))]
        packs = [key for key in before if key.startswith("packs/")]
        assert {key.replace("indexes/", "packs/") for key in before if "indexes/" in key} <= set(
            packs
        )
        assert packs, "nothing had arrived before the outage"
        proxy.cut_after = None
        [item] = person.json("push", "@")["items"]
    assert item["sent"] < item["size"]  # what was half there is sent again, up to four packs
    stranger = at(make_peer(tmp_path, "bea", (), DSTACK_MDNS="0"), s3)
    configured(stranger, place, s3.endpoint)
    stranger.dstack("cp", "@", "model", str(tmp_path / "got"), check=True)
    ana.dstack("cp", "@", "model", str(tmp_path / "had"), check=True)
    assert (tmp_path / "got/weights").read_bytes() == (tmp_path / "had/weights").read_bytes()


def test_a_slow_remote_is_waited_for_and_never_silently(moto: S3Service, ana: Peer) -> None:
    place = moto.made()
    with tcp_proxy(moto.port) as proxy:
        person = at(ana, moto)
        configured(person, place, moto.behind(proxy.port).endpoint)
        proxy.bytes_per_second = 8_000_000  # for each connection
        seen, code_ = _on_a_terminal(person, "push", "@")
    assert code_ == 0, seen
    lines = [line for _, text in seen for line in re.split(r"[\r\n]", text) if "pushing" in line]
    assert any(re.search(r"pushing model: .* of ≥? ?100 MB, .*/s", line) for line in lines), lines
    times = [moment for moment, _ in seen]
    assert max(b - a for a, b in pairwise(times)) < 2.0
    assert len(times) > 10


def test_a_killed_push_leaves_nothing_that_a_later_one_does_not_use_or_sweep(
    ceph: S3Service, ana: Peer
) -> None:
    place = ceph.made()
    dice = seeded("pushes")
    with tcp_proxy(ceph.port) as proxy:
        proxy.bytes_per_second = 10_000_000
        person = at(ana, ceph)
        configured(person, place, ceph.behind(proxy.port).endpoint)
        for _ in range(rounds(2)):
            begun = proxy.passed
            pushing = person.popen(
                (*DSTACK, "push", "@"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            after = begun + dice.randint(1_000_000, 12_000_000)
            eventually(lambda after=after: proxy.passed > after, within=20, every=0.01)
            pushing.kill()
            pushing.wait()
            keys = keys_in(ceph, place)
            assert not [key for key in keys if key.startswith(("manifests/", "records/"))]
        proxy.bytes_per_second = 0
        person.dstack("push", "@", check=True)
    keys = keys_in(ceph, place)
    packs = {key: size for key, size in keys.items() if key.startswith("packs/")}
    assert MODEL_BYTES <= sum(packs.values()) < MODEL_BYTES * 1.02
    with ceph.credentials():
        from datetime import UTC, datetime, timedelta

        S3Objects(place).sweep("packs/", datetime.now(UTC) + timedelta(days=1))
    assert unfinished_in(ceph, place) == 0


def test_ctrl_c_ends_a_push_at_once_and_leaves_nothing_unfinished(
    ceph: S3Service, ana: Peer
) -> None:
    place = ceph.made()
    with tcp_proxy(ceph.port) as proxy:
        person = at(ana, ceph)
        configured(person, place, ceph.behind(proxy.port).endpoint)
        proxy.bytes_per_second = 10_000_000
        begun = proxy.passed
        pushing = person.popen((*DSTACK, "push", "@"), stderr=subprocess.PIPE)
        eventually(lambda: proxy.passed > begun + 5_000_000, within=20, every=0.01)
        began = time.monotonic()
        pushing.send_signal(signal.SIGINT)
        _, talk = pushing.communicate(timeout=10)
        assert time.monotonic() - began < 4
    assert pushing.returncode == 130, talk
    assert b"Traceback" not in talk
    assert unfinished_in(ceph, place) == 0
    assert not [key for key in keys_in(ceph, place) if key.startswith("manifests/")]


def test_a_remote_that_is_silent_holds_no_listing_up(moto: S3Service, ana: Peer) -> None:
    place = moto.made()
    with tcp_proxy(moto.port) as proxy:
        person = at(ana, moto, AWS_MAX_ATTEMPTS="1")
        configured(person, place, moto.behind(proxy.port).endpoint)
        person.dstack("push", "@", check=True)
        proxy.silent = True
        began = time.monotonic()
        listed = person.dstack("ps", "-a", "-q")
        took = time.monotonic() - began
    assert listed.returncode == 0 and listed.stdout.strip(), said(listed)
    assert b"lab did not answer in 2 s" in listed.stderr
    assert took < 8


def test_wrong_credentials_are_told(ceph: S3Service, ana: Peer) -> None:
    place = ceph.made()
    secret = "not-the-secret-of-anybody"
    person = at(ana, ceph, AWS_SECRET_ACCESS_KEY=secret)
    told, lines = trouble(person.dstack("config", place.url, "--endpoint", ceph.endpoint))
    assert told == "remote-credentials"
    configured(person, place, ceph.endpoint, check=False)
    for words in (("push", "@"), ("pull", "some-run")):
        ended = person.dstack(*words)
        told, lines = trouble(ended)
        assert told == "remote-credentials" and ended.returncode == 77
        assert "AWS_PROFILE" in " ".join(lines)
        assert secret not in said(ended)
    nobody = person.dstack("config", place.url, "--endpoint", "http://key:secret@127.0.0.1:1")
    assert trouble(nobody)[0] == "bad-remote"
    assert not any(b"secret" in file.read_bytes() for file in _small_files(ana.home))


def test_a_bucket_that_does_not_exist_is_told_and_can_be_made(
    s3_or_both: S3Service, ana: Peer
) -> None:
    s3 = s3_or_both
    place = s3.bucket()
    person = at(ana, s3)
    ended = person.dstack("config", place.url, "--endpoint", s3.endpoint)
    told, lines = trouble(ended)
    assert told == "no-such-bucket" and ended.returncode == 66
    assert f"dstack config {place.url} --create" in " ".join(lines)
    configured(person, place, s3.endpoint, check=False)
    assert trouble(person.dstack("push", "@"))[0] == "no-such-bucket"
    words = ("config", "lab", place.url, "--endpoint", s3.endpoint, "--create")
    assert person.dstack(*words).returncode == 0
    assert keys_in(s3, place) == {"format": 16}


def test_a_service_that_ignores_conditional_writes_is_refused(moto: S3Service, ana: Peer) -> None:
    place = moto.made()
    with tcp_proxy(moto.port) as proxy:
        proxy.without = "If-None-Match"
        person = at(ana, moto)
        endpoint = moto.behind(proxy.port).endpoint
        ended = person.dstack("config", place.url, "--endpoint", endpoint)
        told, lines = trouble(ended)
        assert told == "no-conditional-writes" and ended.returncode == 78
        assert "If-None-Match" in " ".join(lines)
        configured(person, place, endpoint, check=False)
        assert trouble(person.dstack("push", "@"))[0] == "no-conditional-writes"
    assert [key for key in keys_in(moto, place) if key.startswith("packs/")] == []


def test_without_a_remote_push_says_how_to_name_one(ana: Peer) -> None:
    person = Peer(ana.name, ana.home, (), {**ana.env, "DSTACK_REMOTE": "nowhere"})
    refused = person.dstack("push", "@", "--json")
    assert refused.returncode == 66
    assert json.loads(refused.stdout)["error"]["code"] == "no-remote"
    assert ana.dstack("push", "--remote", "nowhere").returncode == 66


def _on_a_terminal(peer: Peer, *words: str) -> tuple[list[tuple[float, str]], int]:
    """What a command shows on a terminal of its own, with when it was shown."""
    import os
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.execve(DSTACK[0], (*DSTACK, *words), peer.environment)
    seen: list[tuple[float, str]] = []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        seen.append((time.monotonic(), data.decode(errors="replace")))
    os.close(terminal)
    return seen, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _small_files(folder: Path) -> Iterator[Path]:
    skipped = folder / "chunks"
    for file in folder.rglob("*"):
        if file.is_file() and skipped not in file.parents and file.stat().st_size < 1_000_000:
            yield file
