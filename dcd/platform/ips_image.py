"""Removing traces of the build host from an IPS image.

pkg(1) writes its arguments for the transfer into the image's configuration: paths of repositories on the
host, a copy of the key for one, and for each publisher a random identifier of the client. They mean nothing
to users of the image.

The identifier becomes one of the image, derived from its packages: the same in each build of them. pkg keeps
it on installed machines, and sends it to repositories (X-IPkg-UUID) unless the property `send-uuid` of the
image is false; `pkg set-publisher --reset-uuid` gives a machine one of its own. An empty one stays empty. The
pkg of OmniOS keeps it only with the time at which it was made, and makes a random one without.

Source: pkg5, imageconfig.py (version 3 of an image's configuration; `read_publisher`), publisher.py
(`reset_client_uuid`; OmniOS: `client_uuid_time`), image.py (`__store_publisher_ssl`); RFC 9562, section 5.5.
"""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from dcd.platform.inside import read, resolve, write

_DIRECTORIES = ("var/pkg", ".org.opensolaris,pkg")
_SECTION = re.compile(r"\[authority_(?P<name>[^\]]+)\]\s*")
_PROPERTY = re.compile(r"(?P<name>[a-z_.-]+)\s*=\s*(?P<value>.*)")
_EMPTIED = ("ssl_key", "ssl_cert")
_MADE = "Thu Jan  1 00:00:00 1970"
"""The time at which the identifiers were made: the same in each build."""
_NAMESPACE = UUID("9d3f0a52-7c86-5b0e-a1d4-6e52b8f7c310")
_LISTS = ("origins", "mirrors", "origin_info", "mirror_info")


def is_of_the_host(uri: str) -> bool:
    """Whether an origin is valid only on the build host."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return True
    name = parts.hostname or ""
    return name in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", name) is not None


def has_configuration(root: Path) -> bool:
    """Whether the root holds an image with a readable configuration."""
    return any(read(root, f"{directory}/pkg5.image") is not None for directory in _DIRECTORIES)


def forget_host(root: Path, packages: str) -> list[str]:
    """Remove the traces from the image below the root, which has these packages. Returns the removed origins
    and mirrors."""
    gone: list[str] = []
    for directory in _DIRECTORIES:
        text = read(root, f"{directory}/pkg5.image")
        if text is None:
            continue
        changed = _without_host(text, packages, gone.append)
        if changed != text:
            file = resolve(root, f"{directory}/pkg5.image")
            write(root, f"{directory}/pkg5.image", changed, mode=file.stat().st_mode & 0o777)
        keys = resolve(root, f"{directory}/ssl")
        if keys.is_dir():
            shutil.rmtree(keys)
            keys.mkdir()
    return list(dict.fromkeys(gone))


def _without_host(text: str, packages: str, gone: Callable[[str], None]) -> str:
    lines, publisher = [], None
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            section = _SECTION.fullmatch(line)
            publisher = section["name"] if section else None
        found = None if publisher is None else _PROPERTY.fullmatch(line.rstrip("\n"))
        if found and found["name"] in _EMPTIED:
            line = f"{found['name']} = \n"
        elif found and found["name"] == "uuid":
            line = f"uuid = {_client_id(publisher or '', packages)}\n"
        elif found and found["name"] == "last_uuid":
            line = f"last_uuid = {_MADE}\n"
        elif found and found["name"] in _LISTS:
            line = f"{found['name']} = {_kept(found['value'], gone)}\n"
        lines.append(line)
    return "".join(lines)


def _client_id(publisher: str, packages: str) -> UUID:
    return uuid5(_NAMESPACE, f"{publisher}\n{packages}")


def _kept(value: str, gone: Callable[[str], None]) -> str:
    """The text of a list of URIs, or of dictionaries with one each, as pkg writes it, without the host's."""
    try:
        entries = ast.literal_eval(value or "[]")
        uris = [entry["uri"] if isinstance(entry, dict) else entry for entry in entries]
    except (ValueError, SyntaxError, KeyError, TypeError):
        return value
    kept = []
    for entry, uri in zip(entries, uris, strict=True):
        if is_of_the_host(str(uri)):
            gone(str(uri))
        else:
            kept.append(entry)
    return str(kept)
