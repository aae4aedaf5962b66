"""Whatever S3 says is told in our words, each with a fix, and no secret is repeated."""

from typing import Any

import pytest
from botocore import exceptions as botocore
from hypothesis import given
from hypothesis import strategies as st

from dstack_mesh.faults import MeshError
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.s3_trouble import in_words

PLACE = Bucket("lab-runs", "team", "https://s3.lab")
WHERE = "s3://lab-runs/team at s3.lab"


def answered(code: str, status: int = 400, **more: Any) -> MeshError:
    response: Any = {
        "Error": {"Code": code, "Message": "some words", **more},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return in_words(botocore.ClientError(response, "PutObject"), PLACE, WHERE)


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("NoSuchBucket", 404, "no-such-bucket"),
        ("NoSuchKey", 404, "no-object"),
        ("404", 404, "no-object"),
        ("InvalidAccessKeyId", 403, "remote-credentials"),
        ("SignatureDoesNotMatch", 403, "remote-credentials"),
        ("ExpiredToken", 400, "remote-credentials"),
        ("AccessDenied", 403, "remote-forbidden"),
        ("403", 403, "remote-forbidden"),
        ("RequestTimeTooSkewed", 403, "clock-off"),
        ("PermanentRedirect", 301, "wrong-region"),
        ("AuthorizationHeaderMalformed", 400, "wrong-region"),
        ("SlowDown", 503, "remote-away"),
        ("InternalError", 500, "remote-away"),
        ("SomethingNew", 502, "remote-away"),
        ("QuotaExceeded", 403, "remote-full"),
        ("BadDigest", 400, "remote-damaged"),
        ("InvalidRequest", 400, "remote-refuses"),
    ],
)
def test_each_answer_has_its_code(code: str, status: int, told: str) -> None:
    trouble = answered(code, status)
    assert trouble.code == told
    assert code in trouble.why
    assert trouble.hint or told == "no-object"


def test_the_region_that_the_service_names_is_in_the_fix() -> None:
    trouble = answered("AuthorizationHeaderMalformed", Region="eu-north-1")
    assert trouble.hint == "dstack config s3://lab-runs/team --region eu-north-1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (botocore.NoCredentialsError(), "remote-credentials"),
        (botocore.ProfileNotFound(profile="lab"), "remote-credentials"),
        (botocore.EndpointConnectionError(endpoint_url="https://s3.lab"), "remote-away"),
        (botocore.ConnectTimeoutError(endpoint_url="https://s3.lab"), "remote-away"),
        (botocore.ReadTimeoutError(endpoint_url="https://s3.lab"), "remote-away"),
        (
            botocore.SSLError(endpoint_url="https://s3.lab", error=OSError("self-signed")),
            "remote-away",
        ),
        (botocore.ParamValidationError(report="Invalid bucket name"), "bad-remote"),
    ],
)
def test_each_trouble_on_the_way_has_its_code(error: Exception, told: str) -> None:
    trouble = in_words(error, PLACE, WHERE)
    assert trouble.code == told and trouble.why and trouble.hint


@given(st.text(max_size=40), st.integers(0, 599), st.text(max_size=80))
def test_whatever_is_answered_becomes_an_error_of_ours(code: str, status: int, said: str) -> None:
    trouble = answered(code, status, Message=said)
    assert trouble.what and trouble.code
