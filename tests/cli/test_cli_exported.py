"""Exports of strangers: read once, and no further than the index says."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cli.client import ClientError
from cli.exported import Exported, read_export


def export(file: Path, contents: dict[str, bytes], **sizes: int) -> Path:
    """An export with these inputs, and the sizes that the index gives instead of theirs."""
    named = {
        f"inputs/{hashlib.sha256(content).hexdigest()}": content for content in contents.values()
    }
    files = [
        {
            "path": name,
            "sha256": name.removeprefix("inputs/"),
            "size_bytes": sizes.get("size_bytes", len(content)),
        }
        for name, content in named.items()
    ]
    index: dict[str, Any] = {
        "format": "dcd-export-1",
        "name": "x",
        "manifest_path": "/x.xml",
        "source_date_epoch": 0,
        "lists": [],
        "inputs": [],
        "rebuild": {},
        "files": files,
    }
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {"export.json": json.dumps(index).encode(), **named}.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            if "size_bytes" in sizes and name != "export.json":
                head.pax_headers = {
                    "GNU.sparse.map": "0,0",
                    "GNU.sparse.size": str(sizes["size_bytes"]),
                }
            archive.addfile(head, io.BytesIO(content))
    return file


def test_a_file_with_holes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="altered or damaged"):
        read_export(export(tmp_path / "x.dcd", {"a": b""}, size_bytes=1 << 62))


def test_the_archive_is_read_once_for_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {str(number): b"%d" % number * 100 for number in range(200)}
    found = read_export(export(tmp_path / "x.dcd", contents))
    monkeypatch.delattr(tarfile, "open")
    assert {content(found, digest) for digest in found.names("inputs")} == {*contents.values()}
    assert found.text("provenance.dsse.json") == b""


def content(found: Exported, digest: str) -> bytes:
    text = found.text(f"inputs/{digest}")
    assert len(text) == found.size_bytes(f"inputs/{digest}")
    return text
