"""Secrets are taken out of text, and the text stays of use."""

import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_cli.checkup.redaction import GONE, Redaction, known_secrets
from dstack_mesh.home import Home
from dstack_mesh.trust.invite import make_code
from support.meshes import Mesh

SHAPES = [
    "password: {}",
    "Authorization: Bearer {}",
    "https://ana:{}@git.example/lab/code.git",
    "https://{}@git.example/lab/code.git",
    "token={}&x=1",
    '"aws_secret_access_key": "{}"',
    "AWS_SECRET_ACCESS_KEY={} python train.py",
    "HF_TOKEN='{}'",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY-----\n{}\nand the file was cut",
    "client_secret = {}",
    "X-Api-Key: {}",
]


@pytest.mark.parametrize("shape", SHAPES)
@given(st.text("abcdefghkmnprstuvwxyz0123456789", min_size=6, max_size=40))
def test_what_looks_like_a_secret_is_taken_out(shape: str, canary: str) -> None:
    planted = f"canary{canary}"
    assert planted not in Redaction([]).of(f"before {shape.format(planted)} after")


@pytest.mark.parametrize(
    "canary",
    [
        "AKIA0123456789ABCDEF",
        "ghp_0123456789abcdefghij",
        "hf_abcdefghijklmnop",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        secrets.token_hex(32),
        secrets.token_urlsafe(36) + "aA1",
    ],
    ids=["aws", "github", "hugging-face", "jwt", "hex", "url-safe"],
)
def test_tokens_of_known_shapes_are_taken_out_wherever_they_stand(canary: str) -> None:
    assert canary not in Redaction([]).of(f"it said {canary}, and went on")


def test_codes_of_invitations_are_taken_out_as_printed_or_typed() -> None:
    for _ in range(200):
        code = str(make_code())
        for text in (code, code.lower(), code.replace("-", ""), code.replace("-", " ")):
            assert text not in Redaction([]).of(f"dstack mesh join {text} 10.0.0.1:7420")


def test_what_a_helper_needs_stays() -> None:
    kept = (
        "2026-11-25 20:00:31,747 INFO dstack_agent.main: ready: /tmp/home/run/a.sock, port 7420",
        "exit code 137; the job calm-ibex-1.train was stopped",
        "ws-1 at 10.77.0.2:7420 refuses: Connection refused",
        "peer abcdefghijklmnopqrstuvwxyz234567 is gone",
        "no AWS credentials: nothing is rented from here",
    )
    for line in kept:
        assert Redaction([]).of(line) == line


def test_known_values_are_taken_out_whatever_they_look_like(tmp_path: Path) -> None:
    mesh = Mesh.make(tmp_path / "home")
    (tmp_path / ".netrc").write_text("machine git.example login ana password plain-horse\n")
    environ = {"WANDB_API_KEY": "quiet-word", "http_proxy": "http://bo:soft%20rain@proxy:3128"}
    known = known_secrets(Home(tmp_path / "home"), environ, tmp_path)
    pem = (tmp_path / "home" / "keys" / "key.pem").read_text().splitlines()[1]
    said = f"quiet-word soft rain plain-horse {pem} {mesh.membership.discovery_key.hex()}"
    assert Redaction(known).of(said) == " ".join([GONE] * 5)
    assert mesh.membership.mesh_id not in known and mesh.membership.peer_id not in known
