"""Which remotes a person named, in a file of the home: where they are, and no secret.

Credentials are found where every tool of AWS finds them, when they are needed: the environment
(`AWS_PROFILE`, `AWS_ACCESS_KEY_ID` …), `~/.aws`, the machine's role. A remote is written as a URL
whose scheme says what kind of place it is; `s3` is the only one now.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import field, replace
from typing import cast
from urllib.parse import SplitResult, urlsplit

from dstack_mesh.durable import write_durably
from dstack_mesh.faults import Damaged, Invalid, Missing
from dstack_mesh.frozen import frozen
from dstack_mesh.home import Home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_REGION = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_FOLDER = re.compile(r"[\w+=@-][\w.+=@-]*(/[\w+=@-][\w.+=@-]*)*")


@frozen
class Bucket:
    """A bucket of S3 or of a service that speaks like it; empty fields are found as AWS has it.

    Attributes:
        folder: What all keys begin with, without a "/" at the end; "" is the bucket itself.
        endpoint: URL of the service.
        profile: Whose credentials are used.
    """

    bucket: str
    folder: str = ""
    endpoint: str = ""
    region: str = ""
    profile: str = ""

    @property
    def url(self) -> str:
        """As a person writes it."""
        return f"s3://{self.bucket}" + (f"/{self.folder}" if self.folder else "")


@frozen
class Remotes:
    """The remotes of a home by name. `default` is "" where there is none."""

    places: Mapping[str, Bucket] = field(default_factory=dict[str, Bucket])
    default: str = ""

    def chosen(self, name: str = "") -> tuple[str, Bucket]:
        """The remote of a name, or the default one.

        Raises:
            Missing: There is none.
        """
        name = name or self.default
        place = self.places.get(name)
        if place is not None:
            return name, place
        known = ", ".join(sorted(self.places))
        raise Missing(
            f"There is no remote {name!r}." if name else "No remote is configured.",
            f"Named here: {known}." if known else "",
            "dstack config list" if known else "dstack config s3://BUCKET",
            code="no-remote",
        )

    def with_one(self, name: str, place: Bucket, default: bool) -> "Remotes":
        """With a remote more, or another one of that name. The first one is the default."""
        is_default = default or not self.default or name == self.default
        places = {**self.places, name: place}
        return Remotes(dict(sorted(places.items())), name if is_default else self.default)

    def without(self, name: str) -> "Remotes":
        """Without a remote. Raises Missing."""
        self.chosen(name)
        places = {key: place for key, place in self.places.items() if key != name}
        only = next(iter(places)) if len(places) == 1 else ""
        return Remotes(places, self.default if self.default != name else only)


def read_bucket(url: str) -> Bucket:
    """The place that a URL names.

    Raises:
        Invalid: It names none, or has credentials in it.
    """
    parts = _parts(url)
    if parts.username or parts.password:
        raise _wrong("A remote's URL has no credentials in it.", "They would be written down.")
    folder = parts.path.strip("/")
    if parts.scheme != "s3":
        raise _wrong(
            f"{url!r} is no place for a remote.", "It is s3://BUCKET or s3://BUCKET/FOLDER."
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise _wrong(f"{parts.netloc!r} cannot be the name of a bucket.")
    if parts.query or parts.fragment or (folder and not _FOLDER.fullmatch(folder)):
        raise _wrong(f"{folder!r} cannot be a folder of a remote.")
    return Bucket(parts.netloc, folder)


def check_endpoint(url: str) -> str:
    """The URL of a service. Raises Invalid if it is none or has credentials in it."""
    parts = _parts(url)
    if parts.username or parts.password:
        raise _wrong("An endpoint has no credentials in it.", "They would be written down.")
    known = parts.scheme in ("http", "https") and parts.hostname
    if not known or parts.query or parts.fragment:
        raise _wrong(f"{url!r} is no endpoint.", "It is https://HOST or http://HOST:PORT.")
    return url


def check_region(name: str) -> str:
    """The name of a region; "" is as the profile says. Raises Invalid."""
    if name and not _REGION.fullmatch(name):
        raise _wrong(f"{name!r} cannot be a region.", "It is called as eu-north-1 is.")
    return name


def check_name(name: str) -> str:
    """The name of a remote. Raises Invalid."""
    if not _NAME.fullmatch(name):
        raise _wrong(f"{name!r} cannot be the name of a remote.", "It has letters, digits, . _ -")
    return name


def load_remotes(home: Home, chosen: str = "") -> Remotes:
    """The remotes of a home.

    Args:
        chosen: The default for this command, as `DSTACK_REMOTE` says.

    Raises:
        Damaged: The file cannot be read.
        Missing: `chosen` is no remote.
    """
    try:
        content = json.loads(home.remotes.read_bytes())
        places = {str(name): Bucket(**place) for name, place in content["remotes"].items()}
        remotes = Remotes(places, str(content["default"]))
    except FileNotFoundError:
        remotes = Remotes()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{home.remotes}: {error}"
        hint = f"rm {home.remotes} and dstack config s3://BUCKET"
        raise Damaged("The list of remotes cannot be read.", why, hint) from error
    if not chosen:
        return remotes
    try:
        return replace(remotes, default=remotes.chosen(chosen)[0])
    except Missing as missing:
        missing.why = f"DSTACK_REMOTE says so. {missing.why}".rstrip()
        raise


def save_remotes(home: Home, remotes: Remotes) -> None:
    """Writes the remotes of a home down."""
    home.prepare()
    places = {name: _shape(place) for name, place in remotes.places.items()}
    shape = {"default": remotes.default, "remotes": places}
    write_durably(home.remotes, (json.dumps(shape, indent=2) + "\n").encode())


def _parts(url: str) -> SplitResult:
    """The parts of a URL. One that is none is not shown: it may hold a password. Raises Invalid."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _wrong("That is no URL.") from None
    return parts


def _shape(place: Bucket) -> dict[str, str]:
    names = cast("tuple[str, ...]", place.__match_args__)
    return {name: getattr(place, name) for name in names if getattr(place, name)}


def _wrong(what: str, why: str = "") -> Invalid:
    return Invalid(what, why, "dstack config s3://BUCKET/FOLDER --endpoint URL", code="bad-remote")
