"""Secrets of the host in keys: a changed password leads to a rebuild of the layers that contain it.

A key contains only a keyed digest of a secret, so that a reader of the log cannot guess it by trying
words. The digest key belongs to the state directory, is created once, and is readable only by the
daemon. A missing secret has no digest; the attempt that needs it reports the error. Blocking. Source:
RFC 2104.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dcd.manifest.secrets import MAX_BYTES, secret_file
from dcd.platform.host_parts import SUFFIX
from statemachine.errors import DcdError
from statemachine.keys import EXTERNAL, chain
from statemachine.plan import Ingredient, Plan
from store.host.durable import write_file
from store.host.regular import open_regular

_KEY_BYTES = 32


def secret_key(state_dir: Path) -> bytes:
    """The digest key of this state directory, created if missing. Raises OSError."""
    path = state_dir / "secret-digests.key"
    if not path.exists():
        write_file(path, secrets.token_bytes(_KEY_BYTES), 0o600)
    return path.read_bytes()


def secret_digests(names: Iterable[str], key: bytes) -> dict[str, str]:
    """The digest of each secret, a file or a variable of the daemon's environment, as external state."""
    contents = {name: _content(name) for name in names}
    return {
        f"secret {name}{SUFFIX}": hmac.new(key, content, hashlib.sha256).hexdigest()
        for name, content in contents.items()
        if content is not None
    }


def with_secrets(plan: Plan, key: bytes) -> Plan:
    """The plan with the digests of its checkpoints' secrets in their keys."""
    if not any(planned.secrets for planned in plan.checkpoints):
        return plan
    return chain(
        replace(
            planned,
            ingredients=(
                *planned.ingredients,
                *(
                    Ingredient(EXTERNAL, name, value)
                    for name, value in sorted(secret_digests(planned.secrets, key).items())
                ),
            ),
        )
        for planned in plan.checkpoints
    )


def _content(name: str) -> bytes | None:
    if not name.startswith("/"):
        value = os.environ.get(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")
    try:
        with open_regular(secret_file(Path(name))) as file:
            return file.read(MAX_BYTES + 1)
    except (DcdError, OSError):
        return None
