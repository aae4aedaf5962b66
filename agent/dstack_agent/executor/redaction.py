"""Hides values of secrets in what a job writes. Standard library only: the shim imports it.

A seat-belt and no guarantee: a job that means to can write a value in a form that nobody expects.
What is looked for is the value itself, each of its lines, and both as base64, in URLs and in JSON.
Each byte of it becomes a star, so offsets, lengths and hashes are those of what is stored. A value
may arrive in pieces: the end of what came is held back as long as it may be the beginning of one.
"""

import re

SHORTEST = 8
"""Characters; shorter values are not looked for, or half of every log would be stars."""

_STARS = bytes(byte if byte in b"\r\n" else ord("*") for byte in range(256))
"""What is stored for each byte of a value: lines stay lines."""


def forms_of(value: str) -> "set[bytes]":
    """What is looked for of a value; nothing if it is too short."""
    forms: set[bytes] = set()
    for text in {value, *value.splitlines()}:
        if len(text) >= SHORTEST:
            forms |= _forms(text)
    return {form for form in forms if len(form) >= SHORTEST}


def _forms(text: str) -> "set[bytes]":
    import base64
    import json
    from urllib.parse import quote, quote_plus

    plain = text.encode("utf-8", "surrogateescape")
    forms = {plain}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms.add(encode(plain).rstrip(b"="))
        # Within something longer, as "user:value", a value starts at any of three places.
        for shift in (0, 1, 2):
            encoded = encode(b"\0" * shift + plain).rstrip(b"=")
            forms.add(encoded[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6])
    escaped = {quote(plain, safe=""), quote(plain), quote_plus(plain)}
    escaped |= {re.sub("%..", lambda match: match[0].lower(), each) for each in escaped}
    escaped |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return forms | {each.encode("utf-8", "surrogateescape") for each in escaped}


class Redactor:
    """One stream of a job: bytes in, bytes to store out; as many, in the end.

    Args:
        forms: What to hide, each of at least `SHORTEST` bytes.
    """

    def __init__(self, forms: "set[bytes]") -> None:
        self._forms = sorted(forms)
        self._longest = max(map(len, self._forms), default=0)
        self._held = b""
        # Bytes at the beginning of what is held that belong to a value which began before it.
        self._covered = 0

    def take(self, data: bytes) -> bytes:
        """What may be stored now that more came."""
        if not self._forms:
            return data
        data = self._held + data
        cut = self._safe_length(data)
        hidden, beyond = self._hide(data, cut)
        self._held, self._covered = data[cut:], beyond
        return hidden

    def rest(self) -> bytes:
        """What was held back, once nothing more will come."""
        hidden, _ = self._hide(self._held, len(self._held))
        self.forget()
        return hidden

    def forget(self) -> None:
        """Drops what was held back: it will be read again."""
        self._held, self._covered = b"", 0

    def _hide(self, data: bytes, cut: int) -> "tuple[bytes, int]":
        """The first `cut` bytes without values, and how far a value reaches beyond them."""
        out, beyond = data[:cut], max(self._covered - cut, 0)
        spans = [(0, self._covered)] if self._covered else []
        for form in self._forms:
            at = data.find(form)
            while at >= 0:
                spans.append((at, at + len(form)))
                at = data.find(form, at + 1)
        if not spans:
            return out, beyond
        changed = bytearray(out)
        for start, end in spans:
            stop = min(end, cut)
            if start < stop:
                changed[start:stop] = changed[start:stop].translate(_STARS)
                beyond = max(beyond, end - cut)
        return bytes(changed), beyond

    def _safe_length(self, data: bytes) -> int:
        """How much comes before anything that may be the beginning of a value."""
        first = max(len(data) - self._longest + 1, 0)
        cut = len(data)
        for form in self._forms:
            at = data.find(form[:SHORTEST], max(first, len(data) - len(form) + 1))
            while 0 <= at < cut:
                if form.startswith(data[at:]):
                    cut = at
                    break
                at = data.find(form[:SHORTEST], at + 1)
            for length in range(min(SHORTEST - 1, len(data)), len(data) - cut, -1):
                if form.startswith(data[len(data) - length :]):
                    cut = len(data) - length
                    break
        return cut
