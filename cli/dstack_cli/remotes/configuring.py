"""Names remotes, after a look whether they can be used."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace

from dstack_cli.misused import Misused
from dstack_cli.output.port import Document, Json, Listing, Output
from dstack_cli.output.table import Column, Table
from dstack_mesh.frozen import frozen
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

SCHEMA = "dstack.remotes/v1"
NAME = "default"
"""What a remote is called that nobody names."""


@frozen
class Given:
    """What a command line says of a remote; "" is not said."""

    name: str = ""
    url: str = ""
    endpoint: str = ""
    region: str = ""
    profile: str = ""
    default: bool = False
    create: bool = False
    check: bool = True


def configure(home: Home, given: Given, output: Output) -> None:
    """Writes a remote down, once it was seen to work. One without a name is the default."""
    given = _asked_for(given)
    name = check_name(given.name or NAME)
    place = _bucket(given)
    if given.check or given.create:
        output.talk(_looked_at(place, given.create))
    known = load_remotes(home)
    before = known.places.get(name, place)
    remotes = known.with_one(name, place, given.default or not given.name)
    save_remotes(home, remotes)
    instead = f", instead of {_where(before)}" if before != place else ""
    is_default = ", and the default" if remotes.default == name else ""
    output.talk(f"{_where(place)} is the remote {name!r}{instead}{is_default}.  dstack push RUN")
    output.document(_document(remotes, name))


def make_default(home: Home, name: str, output: Output) -> None:
    """Has commands that name no remote mean this one. Raises Missing."""
    known = load_remotes(home)
    remotes = replace(known, default=known.chosen(name)[0])
    save_remotes(home, remotes)
    output.talk(f"{name} is the default remote now.")
    output.document(_document(remotes, name))


def named(given: Given, name: str, url: str) -> Given:
    """The same of a place and by a name."""
    return replace(given, name=name, url=url)


def bucket_for_export(home: Home, given: Given) -> Bucket:
    """Where plain files go: as given, and else as a remote in that bucket is reached."""
    place = _bucket(given)
    if (given.endpoint, given.region, given.profile) != ("", "", ""):
        return place
    for remote in load_remotes(home).places.values():
        if remote.bucket == place.bucket:
            return replace(remote, folder=place.folder)
    return place


def show(home: Home, output: Output) -> None:
    """Lists the remotes."""
    remotes = load_remotes(home)
    rows = [(name, place, name == remotes.default) for name, place in remotes.places.items()]
    output.listing(
        Listing(
            schema=SCHEMA,
            items=[_item(*row) for row in rows],
            table=Table(
                (
                    *(Column("REMOTE"), Column("URL"), Column("ENDPOINT", 2)),
                    *(Column("REGION", 3), Column("PROFILE", 3), Column("DEFAULT", 1)),
                ),
                tuple(
                    (
                        *(name, place.url, place.endpoint or "AWS"),
                        *(place.region, place.profile, "*" if is_default else ""),
                    )
                    for name, place, is_default in rows
                ),
            ),
            names=list(remotes.places),
            empty="There are no remotes. Name one: dstack config s3://BUCKET",
        )
    )


def delete(home: Home, name: str, output: Output) -> None:
    """Forgets a remote; what is in it stays there."""
    known = load_remotes(home)
    remotes = known.without(name)
    save_remotes(home, remotes)
    output.talk(f"{name} is forgotten here. What is in it stays.")
    if remotes.places and not remotes.default:
        output.talk("No remote is the default now: dstack config NAME --default")
    elif remotes.default not in ("", known.default):
        output.talk(f"{remotes.default} is the default remote now.")
    output.document(_document(known, name))


def _document(remotes: Remotes, name: str) -> Document:
    """One remote as scripts get it: a list of one. A person was told of it in a sentence."""
    item = _item(name, remotes.places[name], name == remotes.default)
    return Document({"schema": SCHEMA, "items": [item]}, "", name)


def _item(name: str, place: Bucket, is_default: bool) -> Mapping[str, Json]:
    return {
        "remote": name,
        "url": place.url,
        "endpoint": place.endpoint or None,
        "region": place.region or None,
        "profile": place.profile or None,
        "default": is_default,
    }


def _where(place: Bucket) -> str:
    return f"{place.url} at {place.endpoint}" if place.endpoint else place.url


def _bucket(given: Given) -> Bucket:
    endpoint = check_endpoint(given.endpoint) if given.endpoint else ""
    place = read_bucket(given.url)
    region = check_region(given.region)
    return replace(place, endpoint=endpoint, region=region, profile=given.profile)


def _looked_at(place: Bucket, create: bool) -> str:
    """Looks whether a place can be a remote; what was seen."""
    from dstack_mesh.remotes.probe import check_remote
    from dstack_mesh.remotes.s3 import S3Objects

    objects = S3Objects(place)
    made = create and objects.make_bucket()
    check_remote(objects)
    return f"{objects.where} {'was made, and ' if made else ''}answers as a remote must."


def _asked_for(given: Given) -> Given:
    """What is missing, asked of whoever sits there, as AWS's own tools ask."""
    if given.url:
        return given
    if not sys.stdin.isatty():
        raise Misused(
            "Which place is to be the remote?",
            "Nobody is there to be asked.",
            "dstack config s3://BUCKET/FOLDER",
            code="usage",
        )
    known = os.environ.get("AWS_PROFILE") or "default"
    profile = given.profile or _answer(f"AWS profile [{known}]: ")
    region = given.region or _answer("Region [as the profile says]: ")
    endpoint = given.endpoint or _answer("Endpoint, if it is not AWS []: ")
    bucket = _answer("Bucket, or BUCKET/FOLDER: ")
    return replace(
        given,
        url=bucket if "://" in bucket else f"s3://{bucket}",
        **{"profile": profile, "region": region, "endpoint": endpoint},
    )


def _answer(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise KeyboardInterrupt
    return line.strip()
