"""Files with locks: what the packages of a manifest resolved to. Read, written, and compared.

A lock is JSON with one package or repository file on each line, always in the same order, so that version
control shows an update as the packages that it changes.
"""

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from cli.client import ClientError, Json
from cli.whole_file import whole_file

FORMAT, VERSION = "dcd-lock", 1

MOST_BYTES = 3 << 20
"""The size limit of a file; a lock of 1,000 packages has about 0.3 MiB."""


def read_lock(path: Path) -> Json:
    """The lock in a file. Raises ClientError for a file that is none, or of another version."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ClientError(
            "usage",
            f"cannot read the lock {path}",
            error.strerror or str(error),
            "dcctl lock MANIFEST makes one",
        ) from None
    if len(content) > MOST_BYTES:
        raise ClientError("usage", f"the lock {path} is larger than {MOST_BYTES >> 20} MiB")
    try:
        lock = json.loads(content)
        found, version = lock["format"], lock["version"]
    except (ValueError, RecursionError, KeyError, TypeError):
        found, version = None, None
    if found != FORMAT:
        raise ClientError(
            "usage", f"{path} is not a lock", "", "name a file that dcctl lock has written"
        )
    if version != VERSION:
        raise ClientError(
            "usage",
            f"the lock {path} has the format version {version!r}",
            f"this dcctl knows version {VERSION}",
            "use the dcctl that wrote it, or make the lock again: dcctl lock",
        )
    if not _is_whole(lock):
        raise ClientError(
            "usage", f"the lock {path} is damaged", "", "make the lock again: dcctl lock"
        )
    return lock


def _is_whole(lock: Json) -> bool:
    """Whether it has what `compared` reads, each a text. The daemon checks everything."""
    try:
        texts = [*lock["parameters"].values(), *lock["profiles"]]
        for transfer in lock["transfers"]:
            texts += [transfer["checkpoint"], *transfer["asks"]]
            for part, names in (
                ("files", ("uri", "suite", "path", "sha256")),
                ("packages", ("name", "version", "architecture", "sha256")),
            ):
                texts += [each[name] for each in transfer[part] for name in names]
            for each in transfer.get("repositories", ()):
                texts += [each["uri"], each["suite"], each["signed_by"], *each["keyrings"]]
    except (AttributeError, KeyError, TypeError):
        return False
    return all(isinstance(each, str) for each in texts)


def lock_text(lock: Json) -> str:
    """The content of the file of a lock."""

    def dumped(value: Json) -> str:
        return json.dumps(value, ensure_ascii=False)

    heads = ("format", "version", "name", "parameters", "profiles")
    lines = ["{", *(f" {dumped(name)}: {dumped(lock[name])}," for name in heads), ' "transfers": [']
    for number, transfer in enumerate(lock["transfers"]):
        lines.append("  {")
        named = ("checkpoint", "architecture")
        lines += (f"   {dumped(name)}: {dumped(transfer[name])}," for name in named)
        parts = []
        for name in ("asks", "files", "repositories", "packages"):
            if name not in transfer:  # a daemon of version 0.1.0 has made it
                continue
            items = ",\n".join(f"    {dumped(item)}" for item in transfer[name])
            parts.append(
                f"   {dumped(name)}: [\n{items}\n   ]" if items else f"   {dumped(name)}: []"
            )
        lines.append(",\n".join(parts))
        lines.append("  }" if number + 1 == len(lock["transfers"]) else "  },")
    return "\n".join([*lines, " ]", "}", ""])


def write_lock(path: Path, lock: Json) -> None:
    """Write the file of a lock: complete and on disk, or not at all. Raises ClientError."""
    with whole_file(path) as file:
        file.write(lock_text(lock).encode())


def compared(old: Json, new: Json) -> dict[str, list[Json]]:
    """The changes from one lock to another: of `packages` (`added`, `removed`, `upgraded`, `downgraded`, or
    `replaced` by another file of the same version), of `repositories`, of the `keyrings` that check them, and
    of what the manifest `asks`."""
    return {
        "packages": [*_packages(old, new)],
        "repositories": [*_repositories(old, new)],
        "keyrings": [*_keyrings(old, new)],
        "asks": [*_asks(old, new)],
    }


def _packages(old: Json, new: Json) -> Iterator[Json]:
    before, after = _versions(old), _versions(new)
    for key in sorted({*before, *after}):
        was, now = before.get(key), after.get(key)
        if was == now:
            continue
        name, architecture = key
        if was is None:
            change = "added"
        elif now is None:
            change = "removed"
        else:
            order = compare_versions(was[0], now[0])
            change = ("upgraded", "replaced", "downgraded")[order + 1]
        yield {
            "name": name,
            "architecture": architecture,
            "change": change,
            "from": was[0] if was else None,
            "to": now[0] if now else None,
        }


def _versions(lock: Json) -> dict[tuple[str, str], tuple[str, str]]:
    """Version and digest of each package, by name and architecture. The last transfer counts."""
    return {
        (each["name"], each["architecture"]): (each["version"], each["sha256"])
        for transfer in lock["transfers"]
        for each in transfer["packages"]
    }


def _repositories(old: Json, new: Json) -> Iterator[Json]:
    before, after = _releases(old), _releases(new)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield {"name": name, "from": before.get(name), "to": after.get(name)}


def _releases(lock: Json) -> dict[str, str]:
    return {
        f"{file['uri']} {file['suite']}": file["sha256"]
        for transfer in lock["transfers"]
        for file in transfer["files"]
        if file["path"] in ("InRelease", "Release")
    }


def _keyrings(old: Json, new: Json) -> Iterator[Json]:
    before, after = _checked(old), _checked(new)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield {"name": name, "from": before[name], "to": after[name]}


def _checked(lock: Json) -> dict[str, list[str]]:
    """What checks each repository: the digests of its keyrings, or its keys ([]: nothing, it is trusted)."""
    return {
        f"{each['uri']} {each['suite']}": [*each["keyrings"], *filter(None, [each["signed_by"]])]
        for transfer in lock["transfers"]
        for each in transfer.get("repositories", ())
    }


def _asks(old: Json, new: Json) -> Iterator[Json]:
    before, after = (
        {(each["checkpoint"], ask) for each in lock["transfers"] for ask in each["asks"]}
        for lock in (old, new)
    )
    for checkpoint, ask in sorted(before ^ after):
        change = "added" if (checkpoint, ask) in after else "removed"
        yield {"checkpoint": checkpoint, "ask": ask, "change": change}


def compare_versions(first: str, second: str) -> int:
    """-1, 0 or 1, as one version of a Debian package is older than, the same as, or newer than another.
    Source: deb-version(7)."""
    for one, other in zip(_parts(first), _parts(second), strict=True):
        if order := _compare_parts(one, other):
            return order
    return 0


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    upstream, hyphen, revision = (rest if colon else version).rpartition("-")
    return epoch if colon else "0", upstream if hyphen else revision, revision if hyphen else "0"


def _compare_parts(one: str, other: str) -> int:
    """Compare by turns what are no digits, and numbers."""
    pairs = zip_longest(
        *(re.findall(r"(\D*)(\d*)", part) for part in (one, other)), fillvalue=("", "")
    )
    for (text, number), (its_text, its_number) in pairs:
        mine = ([_rank(each) for each in text] + [0], _order(number))
        its = ([_rank(each) for each in its_text] + [0], _order(its_number))
        if mine != its:
            return 1 if mine > its else -1
    return 0


def _order(digits: str) -> tuple[int, str]:
    """Sorts as the number does. Python refuses to convert very long ones."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _rank(character: str) -> int:
    """A tilde sorts before the end, letters before all others."""
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256
