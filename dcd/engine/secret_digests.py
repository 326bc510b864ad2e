"""Secrets of the host in keys: a password that changed makes what holds it again.

A secret is known by a keyed digest, so that nobody who reads the log can try words until one fits. The key is
the state directory's own, made once, readable by the daemon alone. A secret that is not there has no digest;
the attempt that needs it says so. Blocking.
Source: RFC 2104.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from dcd.manifest.secrets import MAX_BYTES, secret_file
from dcd.platform.host_parts import SUFFIX
from statemachine.errors import DcdError
from statemachine.keys import EXTERNAL, chain
from statemachine.plan import Ingredient, Plan
from store.host.durable import write_file

_KEY_BYTES = 32


def secret_key(state_dir: Path) -> bytes:
    """The key of this state directory, made where there is none. Raises OSError."""
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
    """The plan with the secrets of its checkpoints in their keys."""
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
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(secret_file(Path(name)), flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(MAX_BYTES + 1)
    except (DcdError, OSError):
        return None
