"""Whether a remote really refuses to write where something is: asked, not believed.

Some services take `If-None-Match: *` and ignore it (`rclone serve s3` and `s3rver` do): of two
people who write one record both would be told that theirs is the one. That is seen at once by
writing the same key twice.
"""

import secrets
from contextlib import suppress

from dstack_mesh.faults import Forbidden, Refused
from dstack_mesh.remotes.naming import FORMAT, FORMAT_KEY, PROBES
from dstack_mesh.remotes.port import ObjectStore


def check_remote(objects: ObjectStore) -> None:
    """Returns if the place can be a remote.

    Raises:
        Refused: It does not refuse a second write, or a newer version of the program wrote there.
    """
    key = f"{PROBES}{secrets.token_hex(16)}"
    objects.create(key, b"first")
    second = objects.create(key, b"second")
    with suppress(Forbidden):  # who may write and not remove can still push
        objects.delete(key)
    if second:
        raise Refused(
            f"{objects.where} cannot be a remote.",
            "It ignores conditional writes: a second write with If-None-Match: * was taken "
            "where it must be refused, so two people could overwrite each other's records.",
            "use a service that honours them, as AWS S3, Ceph RGW or MinIO; "
            "or take away the proxy that drops the header",
            code="no-conditional-writes",
        )
    if not objects.create(FORMAT_KEY, FORMAT):
        check_format(objects)


def check_format(objects: ObjectStore) -> None:
    """Returns if what is there was written in a form that we read. Raises Refused."""
    found = objects.get(FORMAT_KEY, 0, 100)
    if found != FORMAT:
        raise Refused(
            f"{objects.where} holds something else than a remote of this version.",
            f"Its {FORMAT_KEY} says {found!r}; this program knows {FORMAT!r}.",
            "update dstack-mesh here, or take another folder: s3://BUCKET/FOLDER",
            code="remote-format",
        )
