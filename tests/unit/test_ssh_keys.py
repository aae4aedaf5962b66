"""The keys of a job's SSH server, made on either side from its token."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dstack_mesh.ssh_keys import person_keys, server_keys

TOKENS = ("0" * 32, "1" * 32)


def test_both_sides_make_the_same_and_no_two_are_alike() -> None:
    pairs = [make(token) for token in TOKENS for make in (server_keys, person_keys)]
    again = [make(token) for token in TOKENS for make in (server_keys, person_keys)]
    assert [pair.public for pair in pairs] == [pair.public for pair in again]
    assert len({pair.private for pair in pairs}) == len({pair.public for pair in pairs}) == 4
    assert not any(token in pair.private + pair.public for token in TOKENS for pair in pairs)


@pytest.mark.parametrize("make", [server_keys, person_keys])
def test_without_a_token_there_is_no_key(make: type) -> None:
    with pytest.raises(ValueError, match="no token"):
        make("")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="this needs ssh-keygen")
def test_openssh_reads_them(tmp_path: Path) -> None:
    pair, file = person_keys(TOKENS[0]), tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(pair.private)
    told = subprocess.run(("ssh-keygen", "-y", "-f", file), capture_output=True, check=True)
    assert told.stdout.decode().strip() == pair.public
