"""A peer's key and id."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack_mesh.faults import Damaged
from dstack_mesh.home import Home
from dstack_mesh.identity import Identity, id_of_key, is_id, public_der


def test_the_id_is_the_keys_hash_and_stays(tmp_path: Path) -> None:
    made = Identity.load_or_make(Home(tmp_path))
    assert is_id(made.peer_id)
    assert made.peer_id == id_of_key(public_der(made.private_key().public_key()))
    assert Identity.load_or_make(Home(tmp_path)) == made


def test_many_who_make_it_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(Identity.load_or_make, [Home(tmp_path)] * 32))
    assert len({one.peer_id for one in made}) == 1
    assert sorted(path.name for path in Home(tmp_path).keys.iterdir()) == ["key.pem", "peer-id"]


def test_a_lost_id_file_is_made_again_from_the_key(tmp_path: Path) -> None:
    made = Identity.load_or_make(Home(tmp_path))
    (Home(tmp_path).keys / "peer-id").unlink()
    assert Identity.load_or_make(Home(tmp_path)) == made


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    made = Identity.load_or_make(Home(tmp_path))
    made.key_path.write_text("nonsense")
    with pytest.raises(Damaged):
        made.private_key()


def test_a_warm_command_reads_id_and_membership_without_cryptography(tmp_path: Path) -> None:
    Identity.load_or_make(Home(tmp_path))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dstack_mesh.home import Home\n"
        "from dstack_mesh.identity import Identity\n"
        "from dstack_mesh.trust.membership import Membership\n"
        "from dstack_mesh.wire.channels import Channels\n"
        "from dstack_mesh.wire.greeter import open_roll_call\n"
        "home = Home(Path(sys.argv[1]))\n"
        "Identity.load_or_make(home), Membership.load(home)\n"
        "open_roll_call(home, Channels(home), {})\n"
        "heavy = {'cryptography', 'zeroconf', 'pydantic', 'rich', 'docker', 'boto3', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "[]"
