"""A client of container registries: blobs, manifests and tags.

A small blob is sent at once, a larger one in pieces: after a break the registry says how much it has, and the
rest follows, or it is sent again from its begin to a registry that cannot continue. A manifest is only sent
when all that it names is there, and a tag when its manifest is, so a registry never shows a part.
What is fetched is only accepted with the digest that names it; a blob continues after a break as well.
Source: the OCI distribution specification 1.1; Docker's token authentication for registries.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from dcd.platform.publishing.http import Answer, Broken, Idle, Piece, Server, server_of
from statemachine.errors import CheckpointError

PIECE_BYTES = 16 << 20
_BREAKS = 8
"""How often the sending, or the fetching, of one blob may break off."""
_THREADS = 4
"""How many blobs of an artifact are sent at once."""
_TAGS, _MOST_TAGS = 1000, 2_000_000
"""The number of tags that are asked for at once, and of those that a repository may have."""
_LONGEST_TAG = 128
"""Of characters; one that is longer is none. Source: OCI Distribution Specification, Pulling manifests."""
_ELSEWHERE = (302, 303, 307, 308)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"

EMPTY = b"{}"
"""The configuration of an artifact that has none."""


def content_digest(content: bytes) -> str:
    """The digest of a content as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


EMPTY_CONFIG = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": content_digest(EMPTY),
    "size": len(EMPTY),
}
"""The descriptor of that configuration."""

ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        MANIFEST,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A repository `name` of a registry; `login` is (user, password), None without one; `actions` are
    those that a token is asked for."""

    server: Server
    name: str
    login: tuple[str, str] | None = None
    actions: str = "pull,push"
    _tokens: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Ask whether this is a registry that takes the login and lets it read. Raises CheckpointError."""
        self._send("GET", "/v2/", ok=(200,))
        self.digest_of("latest")

    def has_blob(self, digest: str) -> bool:
        """Whether the registry has the blob."""
        return self._send("HEAD", f"{self._base}/blobs/{digest}", ok=(200, 404)).status == 200

    def digest_of(self, reference: str) -> str:
        """The digest of the manifest of a tag or digest; "" when there is none."""
        answer = self._send("HEAD", self._manifest(reference), {"Accept": ACCEPTED}, ok=(200, 404))
        return answer.headers.get("docker-content-digest", "") if answer.status == 200 else ""

    def put_blob(self, digest: str, blob: Piece) -> None:
        """Send a blob. Raises CheckpointError."""
        if blob.size_bytes <= PIECE_BYTES:
            self._put_at_once(digest, blob)
            return
        place, sent, breaks = self._location(self._begun()), 0, 0
        while sent < blob.size_bytes:
            size = min(PIECE_BYTES, blob.size_bytes - sent)
            piece = replace(blob, offset=blob.offset + sent, size_bytes=size)
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{sent}-{sent + size - 1}",
            }
            try:
                answer = self._send("PATCH", place, headers, piece, ok=(202,), once=True)
            except CheckpointError as error:
                if breaks == _BREAKS or "credentials" in error.brief:
                    raise
                breaks += 1
                self.server.say(f"{error.details.splitlines()[0][:300]}; continuing")
                # Retried by itself: it waits for a registry that is away.
                answer = self._send("GET", place, ok=(204, 202, 404))
                if answer.status == 404:
                    # Docker's own registry (2.8) takes nothing after the part of a piece.
                    place, sent = self._location(self._begun()), 0
                    continue
            place = self._location(answer)
            found = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", answer.headers.get("range", ""))
            had, sent = sent, int(found[1]) + 1 if found else sent + size
            if answer.status == 204 and found and found[1] == "0":
                sent = min(had, 1) if had else 0  # "0-0" also means that nothing has arrived
            elif answer.status == 202 and sent <= had:
                breaks += 1
                if breaks > _BREAKS:
                    raise CheckpointError(f"{self.server.host} does not keep what it takes")
        self._send("PUT", _naming(place, digest), ok=(201,))

    def _put_at_once(self, digest: str, blob: Piece) -> None:
        """Send a blob by one request, anew after a break."""
        headers = {"Content-Type": "application/octet-stream"}
        for pause in (*self.server.pauses, None):
            place = _naming(self._location(self._begun()), digest)
            try:
                self._send("PUT", place, headers, blob, ok=(201,), once=True)
                return
            except Broken as error:
                if pause is None:
                    raise
                self.server.say(f"{error.details.splitlines()[0][:300]}; again in {pause:g} s")
                time.sleep(pause)

    def _begun(self) -> Answer:
        return self._send("POST", f"{self._base}/blobs/uploads/", ok=(202,))

    def put_manifest(self, reference: str, media_type: str, content: bytes) -> None:
        """Send a manifest under a tag or its digest."""
        self._send(
            "PUT", self._manifest(reference), {"Content-Type": media_type}, content, ok=(201,)
        )

    def put_artifact(
        self,
        tag: str,
        media_type: str,
        manifest: bytes,
        blobs: Mapping[str, Piece],
        check: Callable[[], object] = lambda: None,
    ) -> int:
        """Send the manifest of an artifact without a configuration under a tag, after what the registry lacks
        of the blobs that it names. Returns how many bytes of them were sent. `check` is called before each,
        and its errors end it."""

        def send(digest: str, blob: Piece) -> int:
            check()
            if self.has_blob(digest):
                return 0
            self.put_blob(digest, blob)
            return blob.size_bytes

        empty = Piece(Path(), 0, len(EMPTY), EMPTY)
        sent = send(content_digest(EMPTY), empty)  # and log in
        with ThreadPoolExecutor(_THREADS) as threads:
            sent += sum(threads.map(send, blobs.keys(), blobs.values()))
        self.put_manifest(tag, media_type, manifest)
        return sent

    def get_manifest(self, reference: str) -> tuple[str, bytes] | None:
        """The digest and the content of the manifest of a tag or digest; None when there is none. Raises
        CheckpointError, also for a content that does not have the digest."""
        answer = self._send("GET", self._manifest(reference), {"Accept": ACCEPTED}, ok=(200, 404))
        if answer.status == 404:
            return None
        digest = content_digest(answer.body)
        stated = reference if ":" in reference else answer.headers.get("docker-content-digest")
        if stated not in (None, digest):
            raise self._wrong(f"the manifest {reference}", digest)
        return digest, answer.body

    def get_blob(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        """The pieces of a blob. Raises CheckpointError, also for bytes that do not have the digest: the last
        piece comes when all are right, so what has come is of use only at the end."""
        path, breaks, got = f"{self._base}/blobs/{digest}", 0, 0
        found, held = hashlib.sha256(), b""
        while True:
            broken: CheckpointError | None = None
            try:
                with self._blob(path, got) as (answer, pieces):
                    # A registry that cannot continue sends all of it again.
                    known = got if answer.status == 200 else 0
                    for piece in pieces:
                        new, known = piece[known:], max(0, known - len(piece))
                        got += len(new)
                        if got > size_bytes:
                            raise self._wrong(f"the blob {digest}", f"more than {size_bytes} bytes")
                        found.update(new)
                        if new and held:
                            yield held
                        held = new or held
            except Broken as error:
                broken = error
            if got == size_bytes:
                break
            breaks += 1
            if breaks > _BREAKS:
                raise broken or self._wrong(f"the blob {digest}", f"only {got} bytes")
            self.server.say(f"{self.server.host} breaks off after {got} bytes; continuing")
            time.sleep(self.server.pauses[0] if self.server.pauses else 0)
        if f"sha256:{found.hexdigest()}" != digest:
            raise self._wrong(f"the blob {digest}", f"sha256:{found.hexdigest()}")
        if held:
            yield held

    @contextmanager
    def _blob(self, path: str, start: int) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """A blob from an offset on, from where the registry has it: it may be a store of objects, which does
        not get the login."""
        ranges = {"Range": f"bytes={start}-"} if start else {}
        ok = (200, 206, *_ELSEWHERE)
        for accepted in ((*ok, 401), ok):
            with self.server.streamed(path, {**ranges, **self._tokens}, ok=accepted) as found:
                answer = found[0]
                if answer.status in (200, 206):
                    yield found
                    return
            if answer.status != 401:
                break
            self._authenticate(answer.headers.get("www-authenticate", ""))
        server, target = self._elsewhere(answer)
        with server.streamed(target, ranges, ok=(200, 206)) as found:
            yield found

    def delete_manifest(self, digest: str) -> bool:
        """Delete a manifest with all its tags; the registry frees its blobs when it collects garbage. False:
        it does not allow that."""
        answer = self._send("DELETE", self._manifest(digest), ok=(202, 404, 405))
        return answer.status != 405

    def tags(self) -> list[str]:
        """All tags. Raises CheckpointError, also for too many."""
        found: dict[str, None] = {}
        query = f"?{urlencode({'n': _TAGS})}"  # else all come in one answer, which is too large
        while True:
            answer = self._send("GET", f"{self._base}/tags/list{query}", ok=(200, 404))
            if answer.status == 404:
                return []
            try:
                tags = [str(each)[:_LONGEST_TAG] for each in json.loads(answer.body)["tags"] or []]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{self.server.host} lists no tags", repr(error)) from error
            known = len(found)
            found |= dict.fromkeys(tags)
            if "link" not in answer.headers or len(found) == known:
                return list(found)
            if len(found) > _MOST_TAGS:
                raise CheckpointError(f"{self.server.host} lists more than {_MOST_TAGS} tags")
            query = f"?{urlencode({'n': _TAGS, 'last': tags[-1]})}"

    def _elsewhere(self, answer: Answer) -> tuple[Server, str]:
        """The server and the target to which a registry sends for a blob."""
        parts, target = self._address(answer)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CheckpointError(f"{self.server.host} sends elsewhere: {parts.scheme}")
        if (self.server.scheme, parts.scheme) == ("https", "http"):
            raise CheckpointError(f"{self.server.host} sends to {parts.netloc}, without TLS")
        # A registry may name any number of hosts: no connection to them is kept.
        there = replace(self.server, scheme=parts.scheme, host=parts.netloc, idle=Idle(0))
        return there, target

    def _wrong(self, what: str, found: str) -> CheckpointError:
        return CheckpointError(
            f"{self.server.host} does not send {what}",
            f"it sends {found}",
            "the registry, or the network in between, is damaged",
        )

    @property
    def _base(self) -> str:
        return f"/v2/{self.name}"

    def _manifest(self, reference: str) -> str:
        return f"{self._base}/manifests/{quote(reference, safe=':')}"

    def _location(self, answer: Answer) -> str:
        """The place of an upload, which has to be on this server: the login goes there."""
        parts, target = self._address(answer)
        if (parts.scheme, parts.netloc) != (self.server.scheme, self.server.host) or not parts.path:
            raise CheckpointError(f"{self.server.host} sends uploads elsewhere: {parts.netloc}")
        return target

    def _address(self, answer: Answer) -> tuple[SplitResult, str]:
        """The address that an answer names, and the target of a request to it."""
        here = f"{self.server.scheme}://{self.server.host}/"
        try:
            parts = urlsplit(urljoin(here, answer.headers.get("location", "")))
        except ValueError as error:
            raise CheckpointError(f"{self.server.host} sends no address", str(error)) from error
        return parts, f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Piece = b"",
        *,
        ok: tuple[int, ...],
        once: bool = False,
    ) -> Answer:
        def whole() -> dict[str, str]:
            return {**(headers or {}), **self._tokens}

        answer = self.server.send(method, target, whole, body, ok=(*ok, 401), once=once)
        if answer.status == 401:
            self._authenticate(answer.headers.get("www-authenticate", ""))
            answer = self.server.send(method, target, whole, body, ok=ok, once=once)
        return answer

    def _authenticate(self, challenge: str) -> None:
        scheme, _, rest = challenge.partition(" ")
        basic = {}
        if self.login is not None:
            text = base64.b64encode(":".join(self.login).encode()).decode()
            basic = {"Authorization": f"Basic {text}"}
        if scheme.lower() != "bearer":
            self._tokens.update(basic)
            return
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        try:
            realm = urlsplit(asked.get("realm", ""))
        except ValueError:
            realm = urlsplit("")
        safe = ("https",) if self.server.scheme == "https" else ("https", "http")
        if realm.scheme not in safe or not realm.netloc:
            raise CheckpointError(f"{self.server.host} wants the login at {asked.get('realm')!r}")
        found, path = server_of(realm.geturl(), self.server.timeout_seconds, self.server.say)
        giver = replace(found, idle=Idle(0))
        query = {
            "service": asked.get("service", ""),
            "scope": f"repository:{self.name}:{self.actions}",
        }
        answer = giver.send("GET", f"{path}?{urlencode(query)}", lambda: basic)
        try:
            given = json.loads(answer.body)
            token = given.get("token") or given["access_token"]
        except (ValueError, KeyError, AttributeError):
            raise CheckpointError(f"{giver.host} gives no token for {self.name}") from None
        self._tokens["Authorization"] = f"Bearer {token}"


def _naming(place: str, digest: str) -> str:
    """The place of an upload with the digest of the blob that it completes."""
    return f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"
