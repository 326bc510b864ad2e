"""A client of container registries: blobs, manifests and tags.

A blob is sent in pieces; after a break the registry says how much it has, and the rest follows, or it is sent
again from its begin to a registry that cannot continue. A manifest is
only sent when all that it names is there, and a tag when its manifest is, so a registry never shows a part.
Source: the OCI distribution specification 1.1; Docker's token authentication for registries.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode, urljoin, urlsplit

from dcd.platform.publishing.http import Answer, Piece, Server, server_of
from statemachine.errors import CheckpointError

PIECE_BYTES = 16 << 20
_BREAKS = 8
"""How often the sending of one blob may break off."""

ACCEPTED = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A repository `name` of a registry; `login` is (user, password), None without one."""

    server: Server
    name: str
    login: tuple[str, str] | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    def has_blob(self, digest: str) -> bool:
        """Whether the registry has the blob."""
        return self._send("HEAD", f"{self._base}/blobs/{digest}", ok=(200, 404)).status == 200

    def digest_of(self, reference: str) -> str:
        """The digest of the manifest of a tag or digest; "" when there is none."""
        path = f"{self._base}/manifests/{quote(reference, safe=':')}"
        answer = self._send("HEAD", path, {"Accept": ACCEPTED}, ok=(200, 404))
        return answer.headers.get("docker-content-digest", "") if answer.status == 200 else ""

    def put_blob(self, digest: str, blob: Piece) -> None:
        """Send a blob. Raises CheckpointError."""
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
        join = "&" if "?" in place else "?"
        self._send("PUT", f"{place}{join}{urlencode({'digest': digest})}", ok=(201,))

    def _begun(self) -> Answer:
        return self._send("POST", f"{self._base}/blobs/uploads/", ok=(202,))

    def put_manifest(self, reference: str, media_type: str, content: bytes) -> None:
        """Send a manifest under a tag or its digest."""
        path = f"{self._base}/manifests/{quote(reference, safe=':')}"
        self._send("PUT", path, {"Content-Type": media_type}, content, ok=(201,))

    @property
    def _base(self) -> str:
        return f"/v2/{self.name}"

    def _location(self, answer: Answer) -> str:
        """The place of an upload, which has to be on this server: the login goes there."""
        here = f"{self.server.scheme}://{self.server.host}"
        try:
            parts = urlsplit(urljoin(f"{here}/", answer.headers.get("location", "")))
        except ValueError as error:
            raise CheckpointError(f"{self.server.host} sends no address", str(error)) from error
        if (parts.scheme, parts.netloc) != (self.server.scheme, self.server.host) or not parts.path:
            raise CheckpointError(f"{self.server.host} sends uploads elsewhere: {parts.netloc}")
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

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
        giver, path = server_of(realm.geturl(), self.server.timeout_seconds, self.server.say)
        query = {
            "service": asked.get("service", ""),
            "scope": f"repository:{self.name}:pull,push",
        }
        answer = giver.send("GET", f"{path}?{urlencode(query)}", lambda: basic)
        try:
            given = json.loads(answer.body)
            token = given.get("token") or given["access_token"]
        except (ValueError, KeyError, AttributeError):
            raise CheckpointError(f"{giver.host} gives no token for {self.name}") from None
        self._tokens["Authorization"] = f"Bearer {token}"
