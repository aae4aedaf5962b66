"""Objects in a bucket of S3, or of a service that speaks like it, through boto3.

This module loads boto3, which takes half a second: import it where a remote is really used. Calls
that fail for a moment are made again by botocore (its standard mode: jitter, a cap, five tries;
`AWS_MAX_ATTEMPTS` says how many); a download that breaks off in the middle is made again here.
"""

import os
import random
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from dstack_mesh.faults import Invalid, MeshError
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.port import Stored
from dstack_mesh.remotes.s3_trouble import away, in_words

ATTEMPTS = 5
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
"""So long a service may say nothing before a call is made again."""

LONGEST_PAUSE_SECONDS = 20.0
CONNECTIONS = 16
REGION = "us-east-1"
"""Where nothing says a region: other services than AWS take any, and AWS says which it is."""

_ALREADY = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)


class S3Objects:
    """The objects of one remote; implements `port.ObjectStore`."""

    def __init__(self, place: Bucket) -> None:
        """Asks nothing yet. Raises Invalid or Forbidden if the settings or credentials are bad."""
        self._place = place
        self._prefix = f"{place.folder}/" if place.folder else ""
        self._where = f"{place.url} at {urlsplit(place.endpoint).netloc or 'AWS'}"
        self._attempts = int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)
        with self._in_words():
            self._client: Any = _client(place, self._attempts)
        endpoint = str(self._client.meta.endpoint_url)
        self._where = f"{place.url} at {urlsplit(endpoint).netloc}"

    @property
    def where(self) -> str:
        return self._where

    def make_bucket(self) -> bool:
        """Makes the bucket; False if it is ours already."""
        region = self._client.meta.region_name
        there = {} if region == REGION else {"LocationConstraint": region}
        settings = {"CreateBucketConfiguration": there} if there else {}
        try:
            with self._in_words("BucketAlreadyOwnedByYou"):
                self._client.create_bucket(Bucket=self._place.bucket, **settings)
        except _Expected:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        with self._in_words():
            self._client.put_object(**self._object(key), Body=data)

    def create(self, key: str, data: bytes) -> bool:
        # Where an answer got lost, the second try finds the object of the first: whoever asks
        # names objects by their content and does not mind who wrote them.
        try:
            with self._in_words(*_ALREADY):
                self._client.put_object(**self._object(key), Body=data, IfNoneMatch="*")
        except _Expected:
            return False
        return True

    def put_parts(self, key: str, parts: Iterable[bytes]) -> None:
        where = self._object(key)
        with self._in_words():
            upload = self._client.create_multipart_upload(**where)["UploadId"]
        try:
            done: list[dict[str, object]] = []
            for number, part in enumerate(parts, 1):
                with self._in_words():
                    sent = self._client.upload_part(
                        **where,
                        UploadId=upload,
                        PartNumber=number,
                        Body=part,
                    )
                del part  # while the next one is made
                done.append({"PartNumber": number, "ETag": sent["ETag"]})
            with self._in_words():
                self._client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": done}
                )
        except BaseException:
            # If this is not heard either, `sweep` of a later push does it.
            with suppress(MeshError), self._in_words():
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def get(self, key: str, begin: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        end = "" if length is None else str(begin + length - 1)
        # A range of an empty object is an error, and not every service takes one of everything.
        ranged = {"Range": f"bytes={begin}-{end}"} if begin or end else {}
        for attempt in range(1, self._attempts + 1):
            try:
                with self._in_words("InvalidRange", "416"):
                    answer = self._client.get_object(**self._object(key), **ranged)
                return answer["Body"].read()
            except _Expected:
                return b""
            except _BROKEN_OFF as broken:
                if attempt == self._attempts:
                    raise away(self._where, str(broken)) from broken
                time.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 2.0**attempt)))
        raise AssertionError(self._attempts)

    def listing(self, prefix: str) -> Iterator[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._place.bucket, Prefix=self._prefix + prefix
        )
        with self._in_words():
            for page in pages:
                for found in page.get("Contents", []):
                    key = found.get("Key", "").removeprefix(self._prefix)
                    yield Stored(key, found.get("Size", 0))

    def delete(self, key: str) -> None:
        with self._in_words():
            self._client.delete_object(**self._object(key))

    def sweep(self, prefix: str, before: datetime) -> int:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._place.bucket, Prefix=self._prefix + prefix
        )
        swept = 0
        with self._in_words():
            for upload in (one for page in pages for one in page.get("Uploads", [])):
                key, upload_id, begun = (
                    upload.get(field) for field in ("Key", "UploadId", "Initiated")
                )
                if isinstance(begun, datetime) and begun < before and key and upload_id:
                    self._client.abort_multipart_upload(
                        Bucket=self._place.bucket, Key=str(key), UploadId=str(upload_id)
                    )
                    swept += 1
        return swept

    def _object(self, key: str) -> "dict[str, str]":
        return {"Bucket": self._place.bucket, "Key": self._prefix + key}

    @contextmanager
    def _in_words(self, *expected: str) -> Generator[None]:
        """Within it, errors of boto3 become ours; codes that are expected become `_Expected`."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in expected:
                raise _Expected(code) from error
            raise in_words(error, self._place, self._where) from error
        except BotoCoreError as error:
            raise in_words(error, self._place, self._where) from error


class _Expected(Exception):
    """An answer that is no error here."""


def _client(place: Bucket, attempts: int) -> Any:
    region = place.region or os.environ.get("AWS_REGION") or None
    # The stubs know the services of those who installed them; ours is any.
    session: Any = Session(profile_name=place.profile or None, region_name=region)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENCE_SECONDS,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Others than AWS do not know its newer checksums. The SHA-256 that a request is signed with
        # is known to all, and has the bytes checked on arrival, over TLS too.
        s3={"payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
    )
    try:
        return session.client(
            "s3",
            endpoint_url=place.endpoint or None,
            region_name=session.region_name or REGION,
            config=config,
        )
    except ValueError as wrong:
        what, why = f"{place.url} cannot be asked.", f"{wrong}".rstrip(".") + "."
        raise Invalid(what, why, "dstack config list", code="bad-remote") from wrong
