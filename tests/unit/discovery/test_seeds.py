"""Addresses that a person wrote down."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.discovery.seeds import all_seeds, parse_seed, parse_seeds
from dstack_mesh.discovery.switch import enabled
from dstack_mesh.faults import Invalid


@pytest.mark.parametrize(
    "text", ["ws-1:7420", "10.0.0.7:1", "[fd00::1]:7420", "ws.lab.example:65535", "ws_1:80"]
)
def test_an_address_is_taken_as_written(text: str) -> None:
    assert parse_seed(f" {text} ") == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ws-1", "port is missing"),
        (":7420", "port is missing"),
        ("ws-1:", "not a port"),
        ("ws-1:0", "not a port"),
        ("ws-1:65536", "not a port"),
        ("ws-1:http", "not a port"),
        ("ws-1:\uff17", "not a port"),
        ("fd00::1:7420", "brackets"),
        ("[fd00::x]:7420", "not an IPv6"),
        ("http://ws-1:7420", "no scheme"),
        ("ws 1:7420", "not a host"),
        ("-x:7420", "not a host"),
    ],
)
def test_a_wrong_address_says_what_is_wrong_and_how_to_write_it(text: str, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_seed(text)
    assert why in refused.value.why
    assert "HOST:PORT" in refused.value.hint


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        seed = parse_seed(text)
    except Invalid:
        return
    assert parse_seed(seed) == seed


def test_flags_environment_and_configuration_are_joined_each_once(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: ws\nseeds: [c:3, a:1]\n")
    found = all_seeds(["a:1"], {"DSTACK_SEEDS": "b:2, c:3\nd:4"}, config)
    assert found == ("a:1", "b:2", "c:3", "d:4")


@pytest.mark.parametrize(
    "content", ["seeds: {a: 1}", "seeds: [1, 2]", "seeds: 7", "seeds: [a]", "a: [", "seeds: 'x'"]
)
def test_a_wrong_configuration_is_told(tmp_path: Path, content: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content)
    with pytest.raises(Invalid):
        all_seeds([], {}, config)


@pytest.mark.parametrize("content", ["", "name: ws", "- a", "seeds:"])
def test_a_configuration_without_seeds_has_none(tmp_path: Path, content: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(content)
    assert all_seeds([], {}, config) == ()


def test_more_seeds_than_anybody_writes_are_refused() -> None:
    with pytest.raises(Invalid):
        parse_seeds([f"ws-{number}:1" for number in range(65)])


def test_multicast_is_on_unless_it_is_turned_off() -> None:
    assert enabled({})
    assert enabled({"DSTACK_MDNS": "1"})
    assert not any(enabled({"DSTACK_MDNS": word}) for word in ("0", "no", "off", "False"))
