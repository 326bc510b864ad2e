"""`PublishS3`: products as objects of a bucket that speaks S3.

All parts of all products are sent first; only then the objects are completed, and last comes
PREFIX/SHA256SUMS, which lists them. So a failure on the way shows nothing of the new products, and who takes
the list first finds what it names. The next attempt continues with the parts that are missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.publish.parts import (
    Product,
    check_credentials,
    check_place,
    login_of,
    products_of,
    record,
    secrets_of,
)
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import ENTRY, LINE, URL
from dcd.platform.publishing.http import Piece, server_of
from dcd.platform.publishing.s3 import MOST_PARTS, Bucket, md5_of

SUMS = "SHA256SUMS"
LEAST_PART_BYTES = 5 << 20
"""Size limit of parts, but for the last."""


@dataclass(frozen=True)
class PublishS3(Checkpoint):
    """Store the products in a bucket that speaks S3.

    It runs after everything else, in every build, and sends only what the bucket does not have. An
    interrupted transfer continues where it stopped.
    """

    DESCRIPTION = "Store the products in an S3 bucket"
    EXPECTED_SECONDS = 60.0
    PROVIDES = ()
    REUSABLE = False

    endpoint: Annotated[str, URL]
    """The server: `https://s3.eu-central-1.amazonaws.com`."""

    bucket: Annotated[str, LINE]
    """The bucket, which exists."""

    credentials: Annotated[str, LINE]
    """The secret with ACCESS-KEY:SECRET-KEY: a file below /etc/dcd/secrets, or a variable of the daemon
    (DCD_SECRET_...)."""

    prefix: Annotated[str, LINE] = ""
    """What the keys of the objects begin with, as `images/bookworm`; the name of the product follows after a
    slash."""

    region: Annotated[str, LINE] = "us-east-1"
    """The region that requests are signed for."""

    files: tuple[Annotated[str, ENTRY], ...] = ()
    """Patterns of the names of the products, as `*.iso`; by default all."""

    part_mib: int = 16
    """The size of parts, in MiB, from 5."""

    timeout_seconds: float = 60.0
    """How long the server may take for each step of a request."""

    unverified: bool = False
    """Nothing has to verify the products before."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            network=True, capabilities=(), secrets=secrets_of(self.credentials), contents=True
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_place(self, doc, self.unverified)
        yield from check_credentials(self, doc, self.credentials)
        if not LEAST_PART_BYTES <= self.part_mib << 20 <= 5 << 30:
            yield self.fault(doc, "part_mib", "S3 takes parts from 5 MiB to 5 GiB", "", "use 16")

    def execute(self, context: Context) -> None:
        def say(text: str) -> None:
            context.report(Report(message=text))

        server, path = server_of(self.endpoint, self.timeout_seconds, say)
        # The ids of some servers have a colon, as ACCOUNT:USER of Swift.
        login = login_of(self.credentials, last=True)
        assert login is not None
        bucket = Bucket(server, f"{path}/{self.bucket}", self.region, login)
        products = products_of(context, self.files)
        total = sum(each.size_bytes for each in products) or 1
        sent, waiting = 0, []
        for product in products:
            key = self._key(product.name)
            if bucket.digest_of(key) == product.sha256:
                continue
            context.report(Report(fraction=sent / total))
            waiting.append((product, key, *self._sent(context, bucket, product, key)))
            sent += product.size_bytes
        for product, key, upload, parts in waiting:
            if not upload:
                bucket.put(key, product.sha256, b"", "application/octet-stream")
                continue
            bucket.complete(key, upload, parts)
            if bucket.digest_of(key) != product.sha256:
                # The parts were sent into the interrupted upload of another file that begins alike.
                bucket.complete(key, *self._sent(context, bucket, product, key))
        ready = {product.name for product, *_ in waiting}
        for product in products:
            record(context, self._url(product), product, uploaded=product.name in ready)
        self._list(context, bucket, products)
        say(f"{len(waiting)} of {len(products)} products sent")
        context.report(Report(fraction=1.0))

    def _sent(
        self, context: Context, bucket: Bucket, product: Product, key: str
    ) -> tuple[str, dict[int, str]]:
        """Send what is missing of a product. Returns its upload and the digests of the parts; "" for an empty
        file."""
        if not product.size_bytes:
            return "", {}
        size = max(self.part_mib << 20, -(-product.size_bytes // MOST_PARTS))
        whole = Piece(product.path, 0, product.size_bytes)
        pieces = {
            number: replace(whole, offset=at, size_bytes=min(size, product.size_bytes - at))
            for number, at in enumerate(range(0, product.size_bytes, size), 1)
        }
        digests = {number: md5_of(piece) for number, piece in pieces.items()}
        upload, there = bucket.begin(key, product.sha256)
        if any(digests.get(number) != found for number, found in there.items()):
            bucket.abandon(key, upload)
            upload, there = bucket.begin(key, product.sha256)
        if there:
            context.report(
                Report(message=f"{product.name}: {len(there)} of {len(pieces)} parts are there")
            )
        for number, piece in pieces.items():
            if number not in there:
                bucket.put_part(key, upload, number, piece)
                context.report(Report(message=f"{product.name}: part {number} of {len(pieces)}"))
        return upload, digests

    def _list(self, context: Context, bucket: Bucket, products: list[Product]) -> None:
        """Store the list of the products."""
        text = "".join(
            f"{each.sha256}  {each.name}\n" for each in sorted(products, key=lambda one: one.name)
        ).encode()
        digest = sha256(text).hexdigest()
        listed = Product(SUMS, Path(), digest, len(text), "text")
        key = self._key(SUMS)
        there = bucket.digest_of(key) == digest
        if not there:
            bucket.put(key, digest, text, "text/plain; charset=utf-8")
        record(context, self._url(listed), listed, uploaded=not there)

    def _key(self, name: str) -> str:
        return f"{self.prefix.strip('/')}/{name}".lstrip("/")

    def _url(self, product: Product) -> str:
        return f"{self.endpoint.rstrip('/')}/{quote(f'{self.bucket}/{self._key(product.name)}')}"
