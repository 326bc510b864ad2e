"""A module of checkpoints that manifests in these tests may name: `sample_checkpoints`."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKPOINTS = '''
import enum
import os
from os import system
from pathlib import Path
from typing import Literal

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.values import InputPath


class Kind(enum.Enum):
    FAST = "fast"
    SMALL = "small"


class Transfer(Checkpoint):
    """Does nothing."""

    READS = ("//boot_mods",)

    def execute(self, context, dry_run=False):
        pass


class Options(Transfer):
    def __init__(
        self,
        name: str,
        command: str,
        *,
        verbose: bool = False,
        level: int = 1,
        ratio: float = 1.0,
        method: Literal["gzip", "lzma"] = "gzip",
        kind: Kind = Kind.FAST,
        places: list[Path] | None = None,
        sizes: tuple[int, ...] = (),
        memory_mb: int | None = None,
        script: InputPath | None = None,
    ) -> None:
        super().__init__(name)
        self.values = dict(
            command=command, verbose=verbose, level=level, ratio=ratio, method=method, kind=kind,
            places=places, sizes=sizes, memory_mb=memory_mb, script=script,
        )


class Anything(Transfer):
    def __init__(self, name: str, **values: str) -> None:
        super().__init__(name)
        self.values = values


class Unfinished(Checkpoint):
    pass


class _Hidden(Transfer):
    pass


def made(name: str, level: int = 1) -> Transfer:
    return Options(name, "made", level=level)


def broken(name: str) -> Checkpoint:
    return None


def run(name: str) -> str:
    return os.system(name)
'''


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module's name; it is importable during the test."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/sample_checkpoints.py").write_text(CHECKPOINTS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    importlib.invalidate_caches()
    yield "sample_checkpoints"
    sys.modules.pop("sample_checkpoints", None)
