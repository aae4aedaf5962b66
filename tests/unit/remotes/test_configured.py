"""Remotes are named by URLs, and no secret gets into the file that keeps them."""

from pathlib import Path

import pytest

from dstack_mesh.faults import Damaged, Invalid, Missing
from dstack_mesh.home import Home
from dstack_mesh.remotes.configured import (
    Bucket,
    Remotes,
    check_endpoint,
    check_name,
    check_region,
    load_remotes,
    read_bucket,
    save_remotes,
)

LAB, OTHER = Bucket("lab-runs", "team/a", "https://s3.lab", "eu-1", "lab"), Bucket("other")


@pytest.mark.parametrize("url", ["s3://lab-runs", "s3://lab-runs/team", "s3://lab-runs/a/b-c_d.e"])
def test_a_url_is_read_and_written_alike(url: str) -> None:
    assert read_bucket(url).url == url
    assert read_bucket(f"{url}/") == read_bucket(url)


@pytest.mark.parametrize(
    "url",
    [
        *("lab-runs", "https://lab-runs", "agent://ws-1", "s3://", "s3:///folder", "s3://b"),
        *("s3://key:secret@lab-runs", "s3://lab runs", "s3://lab-runs/a b", "s3://lab-runs?x=1"),
        *("s3://lab-runs/../up", "s3://lab-runs/a//b", "s3://[x", "s3://lab-runs:secret"),
    ],
)
def test_what_names_no_place_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_bucket(url)
    assert "secret" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize(
    "url",
    [
        *("s3.lab", "ftp://s3.lab", "https://", "https://k:secret@s3.lab", "http://[x"),
        *("https://s3.lab:secret", "http://s3.lab:99999", "https://s3.lab?x=1"),
    ],
)
def test_an_endpoint_is_a_url_without_credentials(url: str) -> None:
    assert check_endpoint("http://127.0.0.1:9000") == "http://127.0.0.1:9000"
    with pytest.raises(Invalid) as refused:
        check_endpoint(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a b", "-x", "eu_1", "x" * 64])
def test_a_region_is_a_word_or_not_said(name: str) -> None:
    assert [check_region(one) for one in ("", "eu-north-1", "default")] == [
        *("", "eu-north-1", "default")
    ]
    with pytest.raises(Invalid):
        check_region(name)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 64])
def test_a_name_is_a_word(name: str) -> None:
    assert check_name("lab-2") == "lab-2"
    with pytest.raises(Invalid):
        check_name(name)


def test_what_was_saved_is_loaded_and_one_is_the_default(tmp_path: Path) -> None:
    home = Home(tmp_path)
    remotes = Remotes().with_one("lab", LAB, False).with_one("other", OTHER, False)
    save_remotes(home, remotes)
    assert load_remotes(home) == remotes
    assert home.remotes.stat().st_mode & 0o777 == 0o600
    assert load_remotes(home).chosen() == ("lab", LAB)
    assert load_remotes(home).chosen("other") == ("other", OTHER)
    assert load_remotes(home, "other").chosen() == ("other", OTHER)
    assert remotes.with_one("other", OTHER, True).default == "other"
    assert remotes.without("lab") == Remotes({"other": OTHER}, "other")
    with pytest.raises(Missing, match="Named here: lab, other"):
        remotes.chosen("nowhere")
    with pytest.raises(Missing, match="DSTACK_REMOTE says so"):
        load_remotes(home, "nowhere")
    with pytest.raises(Missing):
        Remotes().chosen()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"remotes": {"x": {"host": 1}}, "default": ""}'])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path)
    home.remotes.write_bytes(content)
    with pytest.raises(Damaged) as told:
        load_remotes(home)
    assert str(home.remotes) in told.value.why
