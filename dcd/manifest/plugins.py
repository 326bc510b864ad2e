"""Data objects that installed plug-ins add to the vocabulary of manifests.

A plug-in names its `DataObject` classes in the entry-point group `dcd.data_objects`. `extends` of a class
names the elements that allow it, and its priority decides whether it precedes a class of the project. The
group `dcd.checkpoints` is for checkpoints (`dcd.construction.constructors`). Loading runs the plug-in's code.
"""

import inspect
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dcd.manifest.data_object import DataObject
from dcd.manifest.objects import BUILTIN
from dcd.manifest.registry import Registry
from statemachine.errors import Unprepared

GROUP = "dcd.data_objects"


def installed_registry() -> Registry:
    """The project's data objects and those of all installed plug-ins. Raises Unprepared for a broken
    plug-in, without which manifests could have another meaning."""
    return BUILTIN.adding(*map(_load, plugin_entries(GROUP)))


def plugin_entries(group: str) -> tuple[EntryPoint, ...]:
    """What installed plug-ins name in a group, without loading it. Looked up again when a package has been
    installed or removed; a process that is forked has what its parent has found."""
    return _entries(group, tuple(map(_changed, sys.path)))


@lru_cache(maxsize=8)
def _entries(group: str, state: tuple[int, ...]) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group)))


def _changed(directory: str) -> int:
    try:
        return Path(directory).stat().st_mtime_ns
    except OSError:
        return 0


def _load(entry: EntryPoint) -> type[DataObject]:
    try:
        found = entry.load()
    except Exception as failure:
        raise _broken(entry, f"{type(failure).__name__}: {failure}") from failure
    if not (inspect.isclass(found) and issubclass(found, DataObject)):
        raise _broken(entry, f"it is {found!r}, not a class of data objects")
    return found


def _broken(entry: EntryPoint, why: str) -> Unprepared:
    return Unprepared(
        f"the data object {entry.value} of a plug-in cannot be loaded",
        why,
        f"fix or uninstall the plug-in (its entry-point group is {GROUP})",
    )
