"""What a remote asks of an object store holds for the fake, for moto and for a real Ceph."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dstack_mesh.faults import Forbidden, MeshError, Missing, Unreachable
from dstack_mesh.remotes.configured import Bucket
from dstack_mesh.remotes.port import NO_OBJECT, ObjectStore
from dstack_mesh.remotes.s3 import S3Objects
from support.memory_objects import MemoryObjects
from support.s3_lab import S3Service

PART = 5 << 20


@pytest.fixture(params=["fake", "moto", "ceph"])
def objects(request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    if request.param == "fake":
        yield MemoryObjects()
        return
    service: S3Service = request.getfixturevalue(request.param)
    place = service.made()
    with service.credentials():
        yield S3Objects(Bucket(place.bucket, "team/runs", place.endpoint))


def test_what_was_put_is_got_whole_and_in_parts(objects: ObjectStore) -> None:
    objects.put("a", b"0123456789")
    assert objects.get("a") == b"0123456789"
    assert objects.get("a", 2, 3) == b"234"
    assert objects.get("a", 8, 100) == b"89"
    assert objects.get("a", 0, 0) == b""
    objects.put("a", b"")
    assert objects.get("a") == objects.get("a", 0, 10) == b""


def test_what_is_not_there_is_missing_by_name(objects: ObjectStore) -> None:
    with pytest.raises(Missing) as absent:
        objects.get("nothing")
    assert absent.value.code == NO_OBJECT
    objects.delete("nothing")


def test_of_many_who_create_one_object_one_does(objects: ObjectStore) -> None:
    made: list[bytes] = []

    def create(number: int) -> None:
        content = b"by %d" % number
        if objects.create("record", content):
            made.append(content)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert objects.get("record") == made[0]
    assert not objects.create("record", b"later")


def test_a_listing_has_every_key_below_a_prefix_in_order(objects: ObjectStore) -> None:
    for number in range(5):
        objects.put(f"kept/{number}", b"x" * number)
    objects.put("other/1", b"")
    found = list(objects.listing("kept/"))
    assert [(one.key, one.size_bytes) for one in found] == [(f"kept/{n}", n) for n in range(5)]
    objects.delete("kept/3")
    assert [one.key for one in objects.listing("kept/")] == [f"kept/{n}" for n in (0, 1, 2, 4)]
    assert list(objects.listing("nothing/")) == []


def test_parts_make_one_object(objects: ObjectStore) -> None:
    parts = [b"a" * PART, b"b" * PART, b"end"]
    objects.put_parts("big", iter(parts))
    assert objects.get("big") == b"".join(parts)
    assert objects.get("big", PART - 2, 4) == b"aabb"


def test_parts_that_fail_leave_nothing(objects: ObjectStore) -> None:
    def parts() -> Iterator[bytes]:
        yield b"a" * PART
        raise KeyError("the disk of the sender")

    with pytest.raises(KeyError):
        objects.put_parts("big", parts())
    assert list(objects.listing("")) == []
    assert objects.sweep("", datetime.now(UTC) + timedelta(days=1)) == 0


def test_parts_that_a_dead_process_left_are_swept(s3: S3Service) -> None:
    place = s3.made()
    with s3.credentials():
        objects = S3Objects(place)
        client = objects._client  # pyright: ignore[reportPrivateUsage]
        begun = client.create_multipart_upload(Bucket=place.bucket, Key="packs/left")
        upload, content = begun["UploadId"], b"a" * PART
        client.upload_part(
            Bucket=place.bucket, Key="packs/left", UploadId=upload, PartNumber=1, Body=content
        )
        if s3.name != "moto":  # which says of every upload that it began in 2010
            assert objects.sweep("packs/", datetime.now(UTC) - timedelta(hours=1)) == 0
        assert objects.sweep("packs/", datetime.now(UTC) + timedelta(hours=1)) == 1
        assert "Uploads" not in client.list_multipart_uploads(Bucket=place.bucket)


def test_a_bucket_that_does_not_exist_is_named(s3: S3Service) -> None:
    with s3.credentials():
        objects = S3Objects(s3.bucket("there-is-none"))
        for call in (
            lambda: list(objects.listing("")),
            lambda: objects.put("a", b""),
            lambda: objects.get("a"),
            lambda: objects.put_parts("a", [b"x"]),
        ):
            with pytest.raises(Missing) as absent:
                call()
            assert absent.value.code == "no-such-bucket"
            assert "there-is-none" in absent.value.what and "--create" in absent.value.hint


def test_credentials_that_are_wrong_or_absent_are_told_and_not_shown(
    ceph: S3Service,
) -> None:
    place = ceph.made()
    with ceph.credentials(), pytest.MonkeyPatch.context() as person:
        person.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-ceph")
        wrong = _trouble(place)
        person.setenv("AWS_ACCESS_KEY_ID", "nobody")
        unknown = _trouble(place)
        person.delenv("AWS_ACCESS_KEY_ID")
        person.delenv("AWS_SECRET_ACCESS_KEY")
        absent = _trouble(place)
    for trouble in (wrong, unknown, absent):
        assert isinstance(trouble, Forbidden)
        assert trouble.code == "remote-credentials"
        assert "AWS_PROFILE" in trouble.hint
        assert "not-the-secret-of-ceph" not in f"{trouble} {trouble.hint}"


def test_a_profile_that_does_not_exist_is_told(moto: S3Service) -> None:
    with moto.credentials(), pytest.raises(Forbidden) as refused:
        S3Objects(Bucket("some-bucket", "", moto.endpoint, profile="nobodys"))
    assert refused.value.code == "remote-credentials"
    assert "nobodys" in refused.value.why


def test_a_service_that_is_not_there_does_not_answer(moto: S3Service, free_port: int) -> None:
    away = moto.behind(free_port).credentials()
    with away, pytest.MonkeyPatch.context() as person:
        person.setenv("AWS_MAX_ATTEMPTS", "2")
        trouble = _trouble(moto.behind(free_port).bucket())
    assert isinstance(trouble, Unreachable)
    assert trouble.code == "remote-away"
    assert f"127.0.0.1:{free_port}" in trouble.what


def _trouble(place: Bucket) -> MeshError:
    with pytest.raises(MeshError) as told:
        S3Objects(place).put("a", b"")
    return told.value
