"""Where secrets are kept, by one command at a time."""

import threading
from pathlib import Path

import pytest

from dstack_cli.secret_store import SecretStore
from dstack_mesh.faults import Damaged
from dstack_mesh.home import Home


def test_commands_that_come_together_lose_nothing(tmp_path: Path) -> None:
    def put(number: int) -> None:
        SecretStore(Home(tmp_path), "lab/repo").put(f"S{number}", "value", over=False)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(SecretStore(Home(tmp_path), "lab/repo").read()) == 20


def test_repositories_are_apart(tmp_path: Path) -> None:
    SecretStore(Home(tmp_path), "lab/one").put("S", "value", over=False)
    assert SecretStore(Home(tmp_path), "lab/other").read() == {}


@pytest.mark.parametrize("text", ['{"secrets": {"S": "canary"', "[]", '{"secrets": ["canary"]}'])
def test_a_damaged_store_is_said_without_what_it_holds(tmp_path: Path, text: str) -> None:
    store = SecretStore(Home(tmp_path), "lab/one")
    store.put("S", "value", over=False)
    (path,) = (tmp_path / "secrets").glob("*.json")
    path.write_text(text)
    with pytest.raises(Damaged) as damaged:
        store.read()
    assert damaged.value.code == "secrets-damaged"
    assert "canary" not in str(damaged.value)
    assert damaged.value.__cause__ is None
