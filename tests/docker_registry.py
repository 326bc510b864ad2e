"""Debian's docker-registry, as tests serve it."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

_CONFIG = """version: 0.1
storage:
  filesystem:
    rootdirectory: {directory}
  delete:
    enabled: {deletes}
http:
  addr: 127.0.0.1:{port}
"""
_LOGIN = """auth:
  htpasswd:
    realm: test
    path: {directory}/users
"""
_USERS = "me:$2y$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu\n"
"""A bcrypt hash of `word`."""


def registry_command(
    directory: Path, *, login: bool = True, deletes: bool = True
) -> Callable[[int], list[Path | str]]:
    """The command of a registry in a directory, made from its port. With `login` it takes `me` with the
    password `word`, with `deletes` manifests may be deleted."""
    (directory / "users").write_text(_USERS)
    config = directory / "config.yml"
    text = _CONFIG + (_LOGIN if login else "")

    def command(port: int) -> list[Path | str]:
        config.write_text(text.format(directory=directory, port=port, deletes=str(deletes).lower()))
        return ["docker-registry", "serve", config]

    return command


def digest(content: bytes) -> str:
    """The digest of a content as registries write it."""
    return f"sha256:{sha256(content).hexdigest()}"
