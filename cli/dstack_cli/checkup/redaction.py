"""Takes secrets out of text that leaves this machine.

Two nets, because neither is enough: values that are known to be secret here (of the environment,
of key files) are taken out wherever they stand, and so is whatever looks like a secret. What is
neither is left, so a person still looks through a bundle.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dstack_mesh.home import Home

GONE = "[removed]"
SHORTEST = 5
"""A known value that is shorter is not looked for: it would take words out of sentences."""

MOST_BYTES = 1 << 20

_SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|private|auth|cookie|session|(^|[_.\-])key|_pw$|_pat$|code",
    re.IGNORECASE,
)
_FILES_OF_A_PERSON = (
    ".aws/credentials",
    ".aws/config",
    ".netrc",
    ".git-credentials",
    ".docker/config.json",
    ".config/gh/hosts.yml",
    ".cache/huggingface/token",
    ".pypirc",
)
_VALUE = re.compile(r"([\w.\-]+)[\"']?\s*[:=]\s*(\S+)")
_NETRC = re.compile(r"\b(password)\s+(\S+)")
_PUBLIC = {"mesh_id", "mesh_name", "peer_id", "role", "seeds", "not_before", "not_after", "version"}

_NAMES = (
    r"authorization|[\w-]*secret[\w-]*|[\w-]*token|passw(?:or)?d|passphrase|api[_-]?key"
    r"|[\w-]*access[_-]?key(?:[_-]?id)?|private[_-]?key|cookie"
)
_PREFIXES = "ghp|gho|ghs|ghu|github_pat|glpat|hf|sk|xox[abprs]|npm|pypi"

_LOOKS_SECRET: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [^-]+-----.*?(-----END [^-]+-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)[^/\s@]*@"), rf"\1{GONE}@"),
    (
        re.compile(
            rf"""(?i)\b((?:{_NAMES})["']?\s*[:=]\s*|bearer\s+)(?:(?:bearer|basic)\s+)?["']?[^\s"',;]+"""
        ),
        rf"\1{GONE}",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), GONE),
    (
        re.compile(
            r"\b(?:ghp|gho|ghs|ghu|github_pat|glpat|hf|sk|xox[abprs]|npm|pypi)[_-][\w-]{8,}"
        ),
        GONE,
    ),
    (re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]+){0,2}"), GONE),
    # Codes of invitations, as they are printed, spoken or typed.
    (re.compile(r"\b[0-9A-Za-z]{4}(?:[-_.][0-9A-Za-z]{4}){3}\b"), GONE),
    (re.compile(r"\b[0-9A-Z]{4}(?: [0-9A-Z]{4}){3}\b"), GONE),
    (re.compile(r"\b[0-9A-HJKMNP-TV-Z]{16}\b"), GONE),
    (re.compile(r"\b[0-9a-fA-F]{40,}\b"), GONE),
    (
        re.compile(
            r"(?<![\w+/=-])(?=[\w+/=-]*[0-9])(?=[\w+/=-]*[A-Z])(?=[\w+/=-]*[a-z])[\w+/=-]{24,}"
        ),
        GONE,
    ),
)


class Redaction:
    """Takes them out.

    Args:
        known: Values that are secret here.
    """

    def __init__(self, known: Iterable[str]) -> None:
        # Longest first: one may be part of another.
        self._known = sorted({one for one in known if len(one) >= SHORTEST}, key=len, reverse=True)

    def of(self, text: str) -> str:
        """The text without them."""
        for value in self._known:
            text = text.replace(value, GONE)
        for pattern, instead in _LOOKS_SECRET:
            text = pattern.sub(instead, text)
        return text


def is_secret_name(name: str) -> bool:
    """Whether what is called so is better not shown."""
    return _SECRET_NAME.search(name) is not None


def known_secrets(home: Home, environ: Mapping[str, str], user_home: Path | None) -> set[str]:
    """Values that must not leave: of the environment, of this home's keys, of a person's files."""
    return {
        *_of_environment(environ),
        *(one for path in _files(home.keys) for one in _of_file(path)),
        *(
            one
            for name in _FILES_OF_A_PERSON
            if user_home is not None
            for one in _of_file(user_home / name)
        ),
    }


def _of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if is_secret_name(name):
            yield value
        if "://" in value:
            yield from _of_address(value)


def _of_address(value: str) -> Iterator[str]:
    try:
        parts = urlsplit(value)
    except ValueError:
        return
    for one in (parts.username, parts.password):
        if one:
            yield one
            yield unquote(one)


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in sorted(folder.rglob("*")) if path.is_file()]
    except OSError:
        return []


def _of_file(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return
    if path.suffix == ".json":
        try:
            yield from _of_json(json.loads(text))
            return
        except ValueError:
            pass
    for line in text.splitlines():
        if line.startswith("-----") or path.name == "peer-id":
            continue
        yield from _of_line(line.strip())


def _of_line(line: str) -> Iterator[str]:
    """Its values, not the names before them: taken out elsewhere, a name would no longer mark what
    follows it."""
    if "://" in line:
        yield from _of_address(line)
    named = [*_VALUE.findall(line), *_NETRC.findall(line)]
    for name, value in named:
        if is_secret_name(name):
            yield value.strip("\"'")
    if not named and len(line.split()) == 1:
        yield line


def _of_json(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _of_json(one)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, dict):
        for name, one in value.items():  # pyright: ignore[reportUnknownVariableType]
            if name not in _PUBLIC:
                yield from _of_json(one)  # pyright: ignore[reportUnknownArgumentType]
