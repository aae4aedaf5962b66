"""Section 3.2 of the map: how a remote and an agent are set up, as it was typed."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from dstack_mesh.home import Home
from dstack_mesh.remotes.configured import Bucket, load_remotes
from support.lab import DSTACK, Peer, make_peer, said


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return make_peer(tmp_path, "home")


def asked(peer: Peer, *answers: str) -> str:
    """What `dstack config` asks somebody at a terminal who answers with these lines."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
        running = peer.popen(
            (*DSTACK, "config", "--no-check"), stdin=theirs, stderr=subprocess.PIPE
        )
        _, questions = running.communicate(timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert running.returncode == 0, questions
    return questions.decode()


def remotes(peer: Peer) -> dict[str, Bucket]:
    return dict(load_remotes(Home(peer.home)).places)


def test_3_2_2_config_asks_for_a_profile_a_region_and_a_bucket(peer: Peer) -> None:
    questions = asked(peer, "lab", "eu-west-1", "", "lab-runs/team")
    words = ("AWS profile", "Region", "Endpoint", "Bucket")
    assert sorted(words, key=questions.index) == list(words)
    wanted = Bucket("lab-runs", "team", region="eu-west-1", profile="lab")
    assert remotes(peer) == {"default": wanted}


def test_3_2_2_without_anybody_to_ask_the_bucket_is_said(peer: Peer) -> None:
    ended = peer.dstack("config")
    assert ended.returncode == 2 and b"dstack config s3://BUCKET/FOLDER" in ended.stderr


def test_3_2_3_a_vendor_is_the_endpoint_of_what_speaks_like_s3(peer: Peer) -> None:
    asked(peer, "", "", "https://storage.lab.example", "lab-runs")
    place = remotes(peer)["default"]
    assert (place.endpoint, place.bucket) == ("https://storage.lab.example", "lab-runs")
    words = ("config", "far", "s3://runs", "--endpoint", "https://s3.far.example", "--no-check")
    peer.dstack(*words, check=True)
    assert remotes(peer)["far"].endpoint == "https://s3.far.example"


@pytest.mark.parametrize("url", ["gs://lab-runs", "azure://lab/runs"])
def test_3_2_3_what_does_not_speak_like_s3_is_refused_with_what_does(peer: Peer, url: str) -> None:
    ended = peer.dstack("config", url)
    assert ended.returncode != 0 and b"s3://BUCKET" in ended.stderr, said(ended)
    assert remotes(peer) == {}


def test_3_2_43_the_agent_s_config_says_what_took_the_place_of_a_token(peer: Peer) -> None:
    told = peer.tells("config", "--token", "T", "--server", "U", "--hostname", "H", code=2).stderr
    assert b"dstack-runner join CODE" in told
    assert b"config" not in peer.tells("--help").stdout


def test_3_2_43_a_machine_that_joined_is_started_and_serves(peer: Peer) -> None:
    peer.dstack("mesh", "create", "lab", check=True)
    flags = ("--listen", "127.0.0.1:0", "--no-mdns")
    with peer.runner(*flags):
        assert b"home" in peer.tells("status").stdout
