"""What S3 and its client say when something is wrong, as our errors: what, why, how to fix it.

Services differ in their words, so the rules look at the code of the answer, then at its status.
Nothing of a request is repeated: an error never shows a key, a signature or a token.
"""

from collections.abc import Mapping
from typing import Any

from botocore import exceptions as botocore

from dstack_mesh.faults import (
    Busy,
    Damaged,
    Forbidden,
    Invalid,
    MeshError,
    Missing,
    Refused,
    Unreachable,
)
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.port import NO_OBJECT

_CREDENTIALS = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"),
        *("TokenRefreshRequired", "InvalidSecurity", "UnrecognizedClientException"),
    }
)
_BUSY = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling"),
        *("ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "BadGateway"),
    }
)
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull"})
_MOVED = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"}
)
_GONE = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})

_NO_CREDENTIALS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.ProfileNotFound,
    botocore.ConfigParseError,
    botocore.TokenRetrievalError,
    botocore.SSOError,
)

CREDENTIALS_HINT = (
    "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or: aws configure\n"
    "dstack doctor cloud"
)


def in_words(error: Exception, place: Bucket, where: str) -> MeshError:
    """The error of a call in our words; for errors of botocore alone."""
    if isinstance(error, botocore.ClientError):
        return _answered(error, place, where)
    if isinstance(error, _NO_CREDENTIALS):
        why = f"{_first_line(error)}."
        what = f"There are no credentials for {where}."
        return Forbidden(what, why, CREDENTIALS_HINT, code="remote-credentials")
    if isinstance(error, botocore.SSLError):
        why = _first_line(error)
        hint = "AWS_CA_BUNDLE names the certificates to trust"
        return Unreachable(f"{where} is not trusted.", why, hint, code="remote-away")
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError):
        return away(where, _first_line(error))
    return Invalid(
        f"{where} cannot be asked.",
        f"{_first_line(error)}.",
        "dstack config list",
        code="bad-remote",
    )


def away(where: str, why: str) -> Unreachable:
    """The error of a service that does not answer, however often it was asked."""
    return Unreachable(
        f"{where} does not answer.",
        f"{why.rstrip('.')}.",
        "try the same command again: what has arrived is not sent twice",
        code="remote-away",
    )


def _answered(error: botocore.ClientError, place: Bucket, where: str) -> MeshError:
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = _said(answer, code)
    if code == "NoSuchBucket":
        return Missing(
            f"There is no bucket {place.bucket} at {where.rpartition(' at ')[2]}.",
            said,
            f"dstack config {place.url} --create   (or: aws s3 mb s3://{place.bucket})",
            code="no-such-bucket",
        )
    if code in _GONE:
        return Missing(f"There is no such object in {where}.", said, code=NO_OBJECT)
    if code in _CREDENTIALS or status == 401:
        what = f"{where} does not take the credentials."
        return Forbidden(what, said, CREDENTIALS_HINT, code="remote-credentials")
    if code == "RequestTimeTooSkewed":
        return Refused(f"{where} finds that our clock is off.", said, "set the clock", "clock-off")
    if code in _MOVED or status == 301:
        return _elsewhere(answer, place, where, said)
    if code in _FULL or status == 507:
        return Busy(f"{where} is full.", said, "make room there", code="remote-full")
    if code in _BUSY or status >= 500 or status == 429:
        return away(where, said)
    if code == "BadDigest":
        what = f"Bytes were damaged on the way to {where}."
        return Damaged(what, said, "try again", code="remote-damaged")
    if status == 403:
        return Forbidden(
            f"{where} does not allow it.",
            said,
            "ask whoever owns the bucket for s3:ListBucket, GetObject, PutObject and "
            "AbortMultipartUpload",
            code="remote-forbidden",
        )
    return Refused(f"{where} refuses.", said, "dstack config list", code="remote-refuses")


def _elsewhere(answer: Mapping[str, Any], place: Bucket, where: str, said: str) -> Refused:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region")
    return Refused(
        f"{where} is in another region.",
        said,
        f"dstack config {place.url} --region {region or 'REGION'}",
        code="wrong-region",
    )


def _said(answer: Mapping[str, Any], code: str) -> str:
    message = str(answer.get("Error", {}).get("Message", "")).strip().rstrip(".")
    return f"It said {code}: {message}." if message and message != code else f"It said {code}."


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
