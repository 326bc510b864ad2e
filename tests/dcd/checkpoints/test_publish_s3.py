"""PublishS3 with the object store of OpenStack, read by boto3, through a proxy with faults; and signatures
with the example of the documentation."""

import hashlib
import os
import pwd
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from dcd.checkpoints.publish.s3 import PublishS3
from dcd.platform.publishing import http
from dcd.platform.publishing.s3 import signature
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.object_server import LOGIN, object_server
from tests.dcd.checkpoints.publishing import Faulty, delivered, faulty, published

pytestmark = pytest.mark.slow

MIB = 1 << 20
LARGE = b"".join(hashlib.sha256(bytes([number])).digest() * (MIB // 32) for number in range(12))
"""12 MiB: three parts of 5 MiB at most."""


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.01, 0.02, 0.03))
    monkeypatch.setenv("DCD_SECRET_S3", ":".join(LOGIN))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    with object_server(tmp_path_factory.mktemp("objects"), user) as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[Faulty]:
    with faulty(server) as found:
        yield found


@pytest.fixture
def bucket(server: int, request: pytest.FixtureRequest) -> Any:
    """A bucket of its own for the test, by boto3."""
    client = boto3.resource(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server}",
        aws_access_key_id=LOGIN[0],
        aws_secret_access_key=LOGIN[1],
        region_name="us-east-1",
    )
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:32]
    return client.create_bucket(Bucket=name)


def storing(proxy: Faulty, bucket: Any, **more: Any) -> PublishS3:
    given = {"prefix": "a b/images", "part_mib": 5, "timeout_seconds": 20.0, **more}
    where = {"endpoint": f"http://{proxy.host}", "bucket": bucket.name}
    return PublishS3("p", **where, credentials="DCD_SECRET_S3", **given)


def content(bucket: Any) -> dict[str, bytes]:
    return {each.key: each.get()["Body"].read() for each in bucket.objects.all()}


def test_products_are_stored_once_with_a_list_and_read_by_boto3(
    bench: Any, proxy: Faulty, bucket: Any
) -> None:
    context = delivered(bench, large_iso=LARGE, small_tsv=b"text", empty_txt=b"")
    first = published(context, storing(proxy, bucket))
    listed = "".join(
        f"{hashlib.sha256(each).hexdigest()}  {name}\n"
        for name, each in (("empty.txt", b""), ("large.iso", LARGE), ("small.tsv", b"text"))
    )
    assert content(bucket) == {
        "a b/images/large.iso": LARGE,
        "a b/images/small.tsv": b"text",
        "a b/images/empty.txt": b"",
        "a b/images/SHA256SUMS": listed.encode(),
    }
    assert len(proxy.sent("PUT")) == 3 + 1 + 1 + 1
    assert {each.uploaded for each in first} == {True}
    assert first[0].url == f"http://{proxy.host}/{bucket.name}/a%20b/images/large.iso"

    proxy.requests.clear()
    again = published(context, storing(proxy, bucket))
    assert {each.uploaded for each in again} == {False}
    assert {line.split()[0] for line in proxy.requests} == {"HEAD"}, "nothing is sent"


def test_an_interrupted_transfer_shows_nothing_and_continues_where_it_stopped(
    bench: Any, proxy: Faulty, bucket: Any
) -> None:
    context = delivered(bench, first_iso=b"first", large_iso=LARGE)
    puts = 0

    class Counting(list[str]):
        def append(self, line: str) -> None:
            nonlocal puts
            super().append(line)
            if "partNumber=2" in line:
                proxy.answers += [500] * 10

    proxy.requests = Counting()
    with pytest.raises(CheckpointError) as failed:
        published(context, storing(proxy, bucket))
    assert "500" in failed.value.details
    assert "dcctl retry" in failed.value.resolution
    assert content(bucket) == {}, "nothing is published in part"

    proxy.requests, proxy.answers = [], []
    published(context, storing(proxy, bucket))
    assert content(bucket)["a b/images/large.iso"] == LARGE
    assert "large.iso: 1 of 3 parts are there" in bench.messages()
    parts = [line for line in proxy.requests if "partNumber=" in line]
    assert len(parts) == 2, "the parts that had arrived are not sent again"


def test_the_parts_of_another_content_are_not_used(bench: Any, proxy: Faulty, bucket: Any) -> None:
    for other in (b"x" * len(LARGE), LARGE[: 5 * MIB] + b"x"):
        upload = bucket.Object("a b/images/large.iso").initiate_multipart_upload()
        upload.Part(1).upload(Body=other[: 5 * MIB])
        published(delivered(bench, large_iso=LARGE), storing(proxy, bucket))
        stored = bucket.Object("a b/images/large.iso")
        assert stored.get()["Body"].read() == LARGE
        assert stored.metadata["sha256"] == hashlib.sha256(LARGE).hexdigest()
        stored.delete()
    assert list(bucket.multipart_uploads.all()) == []


@pytest.mark.parametrize("fault", ["500", "hang", "break"])
def test_a_server_that_does_not_work_for_a_while_is_tried_again(
    bench: Any, proxy: Faulty, bucket: Any, fault: str
) -> None:
    if fault == "500":
        proxy.answers += [500, 503, 429]
    elif fault == "hang":
        proxy.hangs = 1
    else:
        proxy.breaks += [MIB, 2 * MIB]
    published(delivered(bench, large_iso=LARGE), storing(proxy, bucket, timeout_seconds=2.0))
    assert content(bucket)["a b/images/large.iso"] == LARGE
    assert "trying again" in bench.messages()


@pytest.mark.parametrize(
    ("status", "brief"),
    [
        (401, r"refuses the credentials \(401\)"),
        (403, r"refuses the credentials \(403\)"),
        (400, r"refuses a request \(400\)"),
    ],
)
def test_a_refusal_is_an_error_at_once(
    bench: Any, proxy: Faulty, bucket: Any, status: int, brief: str
) -> None:
    proxy.answers.append(status)
    with pytest.raises(CheckpointError, match=brief):
        published(delivered(bench, small_iso=b"x"), storing(proxy, bucket))
    assert len(proxy.requests) == 1
    assert content(bucket) == {}


def test_what_changes_on_the_way_is_refused_by_its_checksum_and_sent_again(
    bench: Any, proxy: Faulty, bucket: Any
) -> None:
    proxy.flips = 1
    context = delivered(bench, large_iso=LARGE)
    with pytest.raises(CheckpointError, match=r"refuses a request \(400\)"):
        published(context, storing(proxy, bucket))
    assert content(bucket) == {}
    published(context, storing(proxy, bucket))
    assert content(bucket)["a b/images/large.iso"] == LARGE


def test_a_bucket_that_does_not_exist_is_an_error(bench: Any, proxy: Faulty, bucket: Any) -> None:
    bucket.delete()
    with pytest.raises(CheckpointError, match="does not have the place"):
        published(delivered(bench, small_iso=b"x"), storing(proxy, bucket))


def test_a_request_is_signed_as_the_documentation_shows() -> None:
    """Source: Amazon S3 API reference, "Example: PUT Object" of Signature Version 4."""
    payload = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    headers = {
        "date": "Fri, 24 May 2013 00:00:00 GMT",
        "host": "examplebucket.s3.amazonaws.com",
        "x-amz-content-sha256": payload,
        "x-amz-date": "20130524T000000Z",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    login = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    now = datetime(2013, 5, 24, tzinfo=UTC)
    place = "/test%24file.text"
    signed = signature("PUT", place, "", headers, payload, now, "us-east-1", login)
    assert signed["authorization"].endswith(
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )
