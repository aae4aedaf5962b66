"""The account that a container gets to be entered, whatever list of them its image has."""

import io
import itertools
import tarfile
from collections.abc import Iterable
from typing import Any

import pytest

from dstack_agent.executor.container_sshd import give_account


class Image:
    """An engine with one container that has not started, of which it gives out one file."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self.accounts = b""

    def get_archive(self, container: str, path: str) -> tuple[Iterable[bytes], Any]:
        return self._parts, {}

    def put_archive(self, container: str, path: str, data: bytes) -> bool:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            file = tar.extractfile("etc/passwd")
            assert file is not None
            self.accounts = file.read()
        return True


def packed(text: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("passwd")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return archive.getvalue()


def test_it_stands_before_those_of_the_image() -> None:
    image = Image([packed(b"root:x:0:0::/root:/bin/sh\n")])
    give_account(image, "c", (1000, 1001))
    own, others = image.accounts.splitlines()
    assert own.startswith(b"dstack:*:1000:1001:")
    assert others == b"root:x:0:0::/root:/bin/sh"


@pytest.mark.parametrize(
    "parts", [itertools.repeat(b"x" * 65536), [b"no archive"], []], ids=["endless", "torn", "none"]
)
def test_of_an_image_with_another_kind_of_list_it_is_the_only_one(parts: Iterable[bytes]) -> None:
    image = Image(parts)
    give_account(image, "c", (1000, 1000))
    assert image.accounts.splitlines()[0].startswith(b"dstack:*:1000:1000:")
    assert len(image.accounts.splitlines()) == 1
