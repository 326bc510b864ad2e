"""Compression of a finished file, with the field's own tools.

The result depends on the file, the tool and the level, not on the number of processors: zstd and xz cut the
file into the same pieces for any number of threads above one, and gzip notes neither name nor time.
Source: zstd(1), -T; xz(1), --threads; gzip(1), --no-name.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcd.checkpoints.interface import Checkpoint, Context
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache

Compression = Literal["zstd", "xz", "gzip", "none"]


@dataclass(frozen=True, slots=True)
class _Compressor:
    """`tool` is its name in `store.host.tools`; the arguments replace a file by a compressed one."""

    tool: str
    suffix: str
    argv: tuple[str, ...]
    levels: range


_COMPRESSORS: Mapping[str, _Compressor] = {
    "zstd": _Compressor(
        "pack-zstd", ".zst", ("zstd", "--quiet", "--rm", "--force", "-T0"), range(1, 20)
    ),
    "xz": _Compressor(
        # One thread alone would give other bytes than several.
        "pack-xz",
        ".xz",
        ("xz", "--force", f"--threads={max(2, os.cpu_count() or 2)}"),
        range(10),
    ),
    "gzip": _Compressor("pack-gzip", ".gz", ("gzip", "--no-name", "--force"), range(1, 10)),
}

TOOLS = tuple(one.tool for one in _COMPRESSORS.values())
"""All of them."""


def tools_of(compression: str) -> tuple[str, ...]:
    """The tools for it, as `Needs.tools` names them."""
    found = _COMPRESSORS.get(compression)
    return () if found is None else (found.tool,)


def suffix_of(compression: str) -> str:
    """The end of the names of its files."""
    found = _COMPRESSORS.get(compression)
    return "" if found is None else found.suffix


def check_level(
    doc: DataObjectCache, checkpoint: Checkpoint, compression: str, level: int | None
) -> Iterator[Diagnostic]:
    """An error when the compression has no such level."""
    found = _COMPRESSORS.get(compression)
    if level is None or (found is not None and level in found.levels):
        return
    why = f"{compression} has levels {found.levels[0]} to {found.levels[-1]}" if found else ""
    yield checkpoint.fault(
        doc,
        "level",
        f"{compression} has no level {level}",
        why,
        f'<arg name="level">{found.levels[-1]}</arg>' if found else "leave level out",
    )


def compress(context: Context, path: Path, compression: str, level: int | None = None) -> Path:
    """Replace a file by a compressed one, whose name has a suffix more; returns its path. `level` is None for
    the tool's own."""
    found = _COMPRESSORS.get(compression)
    if found is None:
        return path
    chosen = () if level is None else (f"-{level}",)
    context.run([*found.argv, *chosen, path])
    return path.with_name(path.name + found.suffix)
