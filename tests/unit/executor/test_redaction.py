"""Of a secret's declared forms none is stored, however it arrives, and no byte is gained."""

import base64
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_agent.executor.output import Output
from dstack_agent.executor.redaction import SHORTEST, Redactor, forms_of
from support.launches import written
from support.rounds import rounds

EXAMPLES = rounds(300)
"""Texts that are tried; 100,000 were."""

LETTERS = st.characters(exclude_characters="\0*", exclude_categories=["Cs"])
VALUES = st.text(LETTERS, min_size=SHORTEST, max_size=40) | st.text(
    'ab%+\\"/ \né', min_size=SHORTEST, max_size=20
)
NOISE = st.binary(max_size=20) | st.sampled_from([b"ab", b"%", b"\n", b"="])


def hidden(forms: set[bytes], text: bytes, cuts: list[int]) -> bytes:
    """What is stored of a text that arrives in pieces of these sizes, and then of the rest."""
    redactor, out = Redactor(forms), b""
    for size in cuts:
        out += redactor.take(text[:size])
        text = text[size:]
    return out + redactor.take(text) + redactor.rest()


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data(), values=st.lists(VALUES, min_size=1, max_size=3))
def test_no_form_of_a_secret_survives_any_split(data: st.DataObject, values: list[str]) -> None:
    forms = set[bytes]().union(*map(forms_of, values))
    parts = st.lists(st.sampled_from(sorted(forms)) | NOISE, max_size=8)
    text = b"".join(data.draw(parts)) if forms else b""
    cuts = data.draw(st.lists(st.integers(1, 30), max_size=20))
    out = hidden(forms, text, cuts)
    assert len(out) == len(text)
    assert not any(form in out for form in forms)
    assert out == hidden(forms, text, [])
    differ = [new for old, new in zip(text, out, strict=True) if old != new]
    assert set(differ) <= {ord("*")}


def test_hiding_piece_by_piece_without_memory_would_be_found() -> None:
    """The negative control of the test above."""
    forms, text = forms_of("canary-4711"), b"a canary-4711 b"
    pieces = (text[:5], text[5:])
    stored = b"".join(Redactor(forms).take(each) + Redactor(forms).rest() for each in pieces)
    assert stored != hidden(forms, text, [5])
    stored = b"".join(each.replace(b"canary-4711", b"*" * 11) for each in pieces)
    assert any(form in stored for form in forms)


@settings(max_examples=EXAMPLES, deadline=None)
@given(value=VALUES, text=st.binary(max_size=200), cuts=st.lists(st.integers(1, 30)))
def test_what_holds_no_secret_stays_as_it_is(value: str, text: bytes, cuts: list[int]) -> None:
    forms = forms_of(value)
    if not any(form in text for form in forms):
        assert hidden(forms, text, cuts) == text


@settings(max_examples=EXAMPLES, deadline=None)
@given(value=st.text(LETTERS, min_size=12, max_size=30), before=st.binary(max_size=7))
def test_every_declared_form_is_looked_for(value: str, before: bytes) -> None:
    plain = value.encode()
    spelled = (
        plain,
        base64.b64encode(plain),
        base64.urlsafe_b64encode(plain),
        quote(value, safe="").encode(),
        quote_plus(value).encode(),
        json.dumps(value).encode(),
        json.dumps(value, ensure_ascii=False).encode(),
    )
    forms = forms_of(value)
    for each in spelled:
        assert b"*" * SHORTEST in hidden(forms, before + each, []), each
    # As `Authorization: Basic` has it: whatever comes before shifts the letters of the rest.
    stored = hidden(forms, base64.b64encode(before + b":" + plain), [])
    assert stored.count(b"*") >= len(plain) * 8 // 6 - 2


def test_lines_of_a_value_are_hidden_one_by_one_and_stay_lines() -> None:
    value = "-----BEGIN-----\nMIIEvQIBADANBg\nshort\n"
    stored = hidden(forms_of(value), b"| MIIEvQIBADANBg |\n" + value.encode(), [])
    assert (
        stored == b"| ************** |\n" + b"*" * 15 + b"\n" + b"*" * 14 + b"\n" + b"*" * 5 + b"\n"
    )


def test_short_values_are_not_looked_for() -> None:
    assert forms_of("1234567") == set()
    assert hidden(forms_of("true"), b"it is true", []) == b"it is true"


@pytest.mark.parametrize("tail", [b"", b"pass", b"passwor"])
def test_a_beginning_that_stays_one_is_stored_at_the_end(tail: bytes) -> None:
    assert hidden(forms_of("password"), b"my " + tail, []) == b"my " + tail


def test_a_line_that_ends_is_not_held_back() -> None:
    assert Redactor(forms_of("canary-4711")).take(b"epoch 1\n") == b"epoch 1\n"


def test_both_streams_of_a_journal_are_hidden_each_on_its_own(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "", hidden=["canary-4711"])
    for stream, piece in ((0, b"a canary"), (1, b"b canary-"), (0, b"-4711 c"), (1, b"4711")):
        output.write(stream, piece)
    output.close()
    assert written(tmp_path) == (b"a *********** c", b"b ***********")
    assert output.lengths == (15, 13)


def test_what_was_held_back_is_stored_once_if_its_source_is_read_again(tmp_path: Path) -> None:
    output = Output(str(tmp_path), "", hidden=["canary-4711"])
    text = b"a canary-4711 b"
    output.write(0, text[:8])
    output.forget_held()
    output.write(0, text[output.lengths[0] :])
    output.close()
    assert written(tmp_path)[0] == b"a *********** b"
