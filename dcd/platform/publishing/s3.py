"""A client of buckets that speak S3: objects in parts, by signed requests.

An object appears when its last part is there and it is completed, so an interrupted upload is never seen. The
parts that have arrived stay with the bucket: the next try finds the upload by the object's key, compares each
part with its MD5, and sends the others. Each request is signed with the sha256 of what it sends, which the
server checks.
Source: Amazon S3 API reference; Signature Version 4 of AWS ("Authenticating Requests: Using the Authorization
Header").
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from lxml import etree

from dcd.platform.publishing.http import Answer, Piece, Server
from statemachine.errors import CheckpointError

DIGEST = "x-amz-meta-sha256"
"""The header with the sha256 of the whole object, which the bucket keeps with it."""

MOST_PARTS = 10_000
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket at `path` of a server ("/NAME"), in a region; `login` is the access key's id and secret."""

    server: Server
    path: str
    region: str
    login: tuple[str, str]

    def digest_of(self, key: str) -> str:
        """The sha256 that the object was stored with; "" when there is no such object, or it has none."""
        answer = self._send("HEAD", key, ok=(200, 404))
        return answer.headers.get(DIGEST, "") if answer.status == 200 else ""

    def put(self, key: str, sha256: str, content: bytes, media_type: str) -> None:
        """Store a small object."""
        self._send("PUT", key, {DIGEST: sha256, "content-type": media_type}, content)

    def begin(self, key: str, sha256: str) -> tuple[str, dict[int, str]]:
        """The id of an upload of the object: of one that was interrupted, with the MD5 digests of the parts
        that have arrived, or of a new one."""
        for upload in self._uploads(key):
            return upload, self._parts(key, upload)
        answer = self._send("POST", key, {DIGEST: sha256}, query={"uploads": ""})
        upload = _text(_xml(answer), "UploadId")
        if not upload:
            raise CheckpointError(f"{self.server.host} begins no upload of {key}")
        return upload, {}

    def put_part(self, key: str, upload: str, number: int, piece: Piece) -> None:
        """Send part `number`, which counts from 1."""
        self._send("PUT", key, body=piece, query={"partNumber": f"{number}", "uploadId": upload})

    def complete(self, key: str, upload: str, parts: Mapping[int, str]) -> None:
        """Make the object appear, from its parts by their MD5 digests. Raises CheckpointError."""
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(digest)}</ETag></Part>"
            for number, digest in sorted(parts.items())
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        answer = self._send("POST", key, body=body, query={"uploadId": upload})
        if _xml(answer).tag.rpartition("}")[2] == "Error":  # with status 200, as documented
            raise CheckpointError(
                f"{self.server.host} does not complete {key}",
                answer.body[:500].decode("utf-8", "replace"),
                "dcctl retry continues with what it does not have yet",
            )

    def abandon(self, key: str, upload: str) -> None:
        """Remove an upload whose parts are of another content."""
        self._send("DELETE", key, query={"uploadId": upload}, ok=(204, 404))

    def _uploads(self, key: str) -> Iterator[str]:
        # A server that does not list uploads gets every object from its begin.
        answer = self._send("GET", "", query={"prefix": key, "uploads": ""}, ok=(200, 501))
        if answer.status == 501:
            return
        for found in _xml(answer).iterfind("{*}Upload"):
            if _text(found, "Key") == key:
                yield _text(found, "UploadId")

    def _parts(self, key: str, upload: str) -> dict[int, str]:
        parts: dict[int, str] = {}
        marker = 0
        while True:
            query = {"part-number-marker": f"{marker}", "uploadId": upload}
            listing = _xml(self._send("GET", key, query=query))
            for part in listing.iterfind("{*}Part"):
                if number := _number(part, "PartNumber"):
                    parts[number] = _text(part, "ETag").strip('"')
            following = _number(listing, "NextPartNumberMarker")
            if _text(listing, "IsTruncated") != "true" or following <= marker:
                return parts
            marker = following

    def _send(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Piece = b"",
        query: Mapping[str, str] | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Answer:
        place = quote(f"{self.path}/{key}" if key else self.path, safe="/-_.~")
        text = urlencode(sorted((query or {}).items()), quote_via=quote, safe="-_.~")
        payload = _digest(body)

        def signed() -> dict[str, str]:
            now = datetime.now(UTC)
            named = {
                "host": self.server.host,
                "x-amz-content-sha256": payload,
                "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
                **(headers or {}),
            }
            return signature(method, place, text, named, payload, now, self.region, self.login)

        return self.server.send(method, f"{place}?{text}" if text else place, signed, body, ok=ok)


def signature(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload: str,
    now: datetime,
    region: str,
    login: tuple[str, str],
) -> dict[str, str]:
    """The headers of a request (names in lower case, the path and the query encoded) with its signature.
    `payload` is the sha256 of what it sends."""
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
    request = "\n".join((method, path, query, lines, names, payload))
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    stated = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            f"{now:%Y%m%dT%H%M%SZ}",
            scope,
            hashlib.sha256(request.encode()).hexdigest(),
        )
    )
    found = hmac.digest(_signing_key(login[1], scope), stated.encode(), "sha256").hex()
    credential = f"Credential={login[0]}/{scope}, SignedHeaders={names}, Signature={found}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _digest(body: bytes | Piece) -> str:
    if isinstance(body, bytes):
        return hashlib.sha256(body).hexdigest()
    found = hashlib.sha256()
    for chunk in body.chunks():
        found.update(chunk)
    return found.hexdigest()


def md5_of(piece: Piece) -> str:
    """The digest by which S3 names a part."""
    found = hashlib.md5(usedforsecurity=False)
    for chunk in piece.chunks():
        found.update(chunk)
    return found.hexdigest()


def _xml(answer: Answer) -> etree._Element:
    try:
        return etree.fromstring(answer.body, _PARSER)
    except etree.XMLSyntaxError as error:
        raise CheckpointError("the bucket answers with what is no XML", str(error)) from error


def _text(element: etree._Element, name: str) -> str:
    return (element.findtext(f"{{*}}{name}") or "").strip()


def _number(element: etree._Element, name: str) -> int:
    """The number of a part; 0 where there is none, or another one than a part can have."""
    text = _text(element, name)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    return number if number <= MOST_PARTS else 0
