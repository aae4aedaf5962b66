"""What `dstack doctor --bundle` writes: what a helper asks for, and nobody's secrets."""

import json
import secrets
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_mesh.trust.invite import make_code
from support.lab import Peer, make_peer, said
from support.meshes import Mesh
from support.rounds import rounds

FILES = {
    *("agent.json", "agent.log", "findings.json", "interfaces.json", "settings.json"),
    "versions.json",
}


def word() -> str:
    """A secret that looks like nothing in particular."""
    return f"plain{secrets.token_hex(6)}"


def token() -> str:
    return secrets.token_urlsafe(30) + "aA1"


class Canaries:
    """Secrets that were planted."""

    def __init__(self) -> None:
        self.planted: list[str] = []

    def new(self, make: Callable[[], str] = word) -> str:
        self.planted.append(make())
        return self.planted[-1]

    def found_in(self, folder: Path) -> list[str]:
        """Which are anywhere in the files below a folder."""
        texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
        return [one for one in self.planted if any(one in text for text in texts)]


def plant(folder: Path, canaries: Canaries, lines: int) -> Peer:
    """A home, a person and an environment full of secrets."""
    new = canaries.new
    mesh = Mesh.make(folder / "home", "lab")
    home, person = folder / "home", folder / "person"
    for file, text in {
        ".aws/credentials": f"[default]\naws_secret_access_key = {new()}\n",
        ".netrc": f"machine git.example login ana password {new()}\n",
        ".git-credentials": f"https://ana:{new()}@git.example\n",
        ".docker/config.json": json.dumps({"auths": {"r.example": {"auth": new()}}}),
    }.items():
        (person / file).parent.mkdir(parents=True, exist_ok=True)
        (person / file).write_text(text)
    for name in ("key.pem", "root-key.pem"):
        canaries.planted += [
            line for line in (home / "keys" / name).read_text().splitlines() if "-----" not in line
        ]
    canaries.planted.append(mesh.membership.discovery_key.hex())
    config = (
        f"name: ws-1\nseeds: [10.0.0.9:7420]\nwebhook: https://x.example/{new()}\npin: {new()}\n"
    )
    (home / "config.yaml").write_text(config)
    environ = {
        "HOME": str(person),
        "AWS_ACCESS_KEY_ID": new(lambda: f"AKIA{secrets.token_hex(8).upper()}"),
        "AWS_SECRET_ACCESS_KEY": new(),
        "AWS_SESSION_TOKEN": new(),
        "HF_TOKEN": new(),
        "WANDB_API_KEY": new(),
        "DB_PASSWORD": new(),
        "http_proxy": f"http://ana:{new()}@proxy.example:3128",
        "https_proxy": f"http://ana:x/{new()}@proxy.example:3128",
        "DSTACK_SOMETHING": new(),
        "DSTACK_MDNS": "0",
    }
    (home / "state").mkdir(exist_ok=True)
    (home / "state" / "agent.log").write_text(log(canaries, environ, lines))
    return Peer("ws-1", home, env=environ)


def log(canaries: Canaries, environ: dict[str, str], lines: int) -> str:
    """What an agent could have written that it should not have."""
    new = canaries.new
    shapes = (
        lambda: f"cloned https://x-access-token:{new()}@git.example/lab/code.git",
        lambda: f"fetch failed: https://{new()}@git.example/lab/code",
        lambda: f"Authorization: Bearer {new()}",
        lambda: f"env HF_TOKEN={new()} python train.py",
        lambda: f"joined with {new(lambda: str(make_code()))}",
        lambda: f"someone printed {new(token)} on its own",
        lambda: f"password = '{new()}'",
        lambda: f"-----BEGIN PRIVATE KEY-----\n{new()}\n-----END PRIVATE KEY-----",
        lambda: f"and {environ['DB_PASSWORD']} without a name",
    )
    return "".join(f"INFO line {at}: {shapes[at % len(shapes)]()}\n" for at in range(lines))


@pytest.mark.parametrize("name", ["bundle", "bundle.tar.gz"])
def test_no_canary_is_in_a_bundle(tmp_path: Path, name: str) -> None:
    canaries = Canaries()
    peer = plant(tmp_path, canaries, lines=rounds(90))
    target = tmp_path / name
    ended = peer.dstack("doctor", "--bundle", str(target))
    assert target.exists(), said(ended)
    folder = unpacked(target, tmp_path / "unpacked")
    assert {path.name for path in folder.iterdir()} == FILES
    print(f"{len(canaries.planted)} canaries planted")
    assert canaries.found_in(folder) == []
    for stream in (ended.stdout, ended.stderr):
        assert [one for one in canaries.planted if one.encode() in stream] == []


def unpacked(target: Path, folder: Path) -> Path:
    if target.is_dir():
        return target
    with tarfile.open(target) as archive:  # Debian's Python 3.11.2 has no filters for `extractall`
        for member in filter(tarfile.TarInfo.isfile, archive.getmembers()):
            path, content = folder / member.name, archive.extractfile(member)
            assert content is not None
            assert path.resolve().is_relative_to(folder.resolve())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    return folder / "dstack-doctor"


def test_a_canary_that_was_left_in_would_be_found(tmp_path: Path) -> None:
    """The negative control of the test above."""
    canaries = Canaries()
    (tmp_path / "agent.log").write_text(f"x {canaries.new()} y")
    assert canaries.found_in(tmp_path) == canaries.planted


def test_a_bundle_has_what_a_helper_asks_for_and_is_the_owners_alone(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "home", DSTACK_MDNS="0")
    (peer.home / "config.yaml").write_text("seeds: [10.0.0.9:7420]\nmine: x\n")
    (peer.home / "state").mkdir()
    (peer.home / "state" / "agent.log").write_text("INFO ready: port 7420\n")
    target = tmp_path / "bundle"
    ended = peer.dstack("doctor", "gpu", "cloud", "--json", "--bundle", str(target))
    assert ended.returncode == 0, said(ended)
    assert b"Look through it" in ended.stderr
    assert target.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.iterdir())
    read = {path.name: path.read_text() for path in target.iterdir()}
    settings = json.loads(read["settings.json"])
    assert settings["config.yaml"] == {"seeds": ["10.0.0.9:7420"], "mine": "[removed]"}
    assert settings["environment"]["DSTACK_MDNS"] == "0"
    assert json.loads(read["versions.json"])["libraries"]["grpcio"]
    findings = json.loads(read["findings.json"])
    assert [one["check"] for one in findings] == ["gpu", "cloud"]
    assert read["agent.log"] == "INFO ready: port 7420\n"
    assert json.loads(read["agent.json"]) == {"runs": False}
    again = peer.dstack("doctor", "gpu", "--bundle", str(target))
    assert again.returncode != 0 and b"is not overwritten" in again.stderr
    assert again.stdout == b"", "it is told before anything is looked at"
    other = peer.dstack("doctor", "gpu", "--bundle", str(tmp_path / "b.zip"))
    assert other.returncode == 2 and b"b.tar.gz" in other.stderr, said(other)
    below = tmp_path / "not" / "yet" / "b.tar.gz"
    peer.dstack("doctor", "gpu", "--bundle", str(below), check=True)
    assert below.exists()
