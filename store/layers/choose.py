"""Choosing a layer back end by trying it.

Each back end in turn creates, commits, stacks, reads and removes layers in the real directory, in a
separate process, with a mount namespace if it mounts; the first one that succeeds is chosen. The errors
of the others are kept for `dcctl doctor`. The reconciler cleans up after a trial that dies.

Each back end keeps its layers in a directory with its own name, so that back ends never see each
other's files. A back end that has layers is preferred: completed checkpoints stay completed when a
better back end becomes available (for example after installing btrfs-progs).
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from statemachine.errors import DcdError, Unprepared
from statemachine.variation import ELSEWHERE
from store.host.interpreter import module_command, module_environment
from store.layers.btrfs import BtrfsTrees
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord, LayerStore
from store.layers.overlay import OverlayTrees
from store.layers.several import LayersInTwoPlaces
from store.layers.trees import Trees
from store.layers.zfs import ZfsTrees

TRIAL = "trial"
"""The `made_by` of the layers of a trial, instead of a build."""

VARIED = "varied"
"""The directory of the second place, beside the back ends."""

_BACK_ENDS: dict[str, Callable[[], Trees]] = {
    "zfs": ZfsTrees,
    "btrfs": BtrfsTrees,
    "overlay": OverlayTrees,
    "copy": CopyTrees,
}
"""Best first."""


def choose(
    directory: Path, only: str | None = None, last: str | None = None, *, mounts: bool = True
) -> tuple[LayerDirectory, str]:
    """The best back end that works in `directory` (created if needed), and the reason for the choice.
    With `only`, that one, if it works; `last` is tried after all others. Without `mounts`, workers have no
    mount namespace, and back ends that need one do not work. Raises Unprepared, with the error of each, when
    none does.
    """
    candidates = [only] if only else sorted(_BACK_ENDS, key=lambda name: name == last)
    complaints = []
    for name in sorted(
        candidates, key=lambda name: name == last or not _store(name, directory).has_layers()
    ):
        store = _store(name, directory)
        try:
            if not mounts and _BACK_ENDS[name]().mounts:
                raise Unprepared("portable workers cannot mount layers")
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            store.prepare()
            _try(name, directory)
        except DcdError as error:
            complaints.append(f"{name}: {error.brief}")
        else:
            note = " and has layers" if store.has_layers() else ""
            return store, "; ".join([f"{name} works in {directory}{note}", *complaints])
    raise Unprepared(
        f"layers cannot be kept in {directory}",
        "\n".join(complaints),
        _remedy(only, mounts),
    )


def with_second_place(main: LayerDirectory, directory: Path, *, mounts: bool = True) -> LayerStore:
    """A back end together with a second place in `directory`, where builds in varied surroundings keep their
    layers, if possible with another back end; `mounts` is as for `choose`. Removes nothing."""
    others = [store for name in _BACK_ENDS if (store := _store(name, directory)).holds_something()]
    return LayersInTwoPlaces(
        main,
        others,
        lambda name: name.endswith(f".{ELSEWHERE}"),
        lambda: choose(directory, last=main.name, mounts=mounts)[0],
    )


def _remedy(only: str | None, mounts: bool) -> str:
    if only and not mounts and _BACK_ENDS[only]().mounts:
        return "set layer_backend = auto, or worker = namespaces on a Linux host with util-linux"
    return "choose a state directory on a local file system (see dcd serve --state-dir)"


def retired(directory: Path, name: str) -> tuple[LayerStore, ...]:
    """The back ends other than `name` with files in `directory`, from earlier use. Their layers are
    never read again; `reconcile` without keys and names removes them all."""
    others = (_store(other, directory) for other in _BACK_ENDS if other != name)
    return tuple(store for store in others if store.holds_something())


def open_store(name: str, directory: Path) -> LayerStore:
    """The back end of that name, for workers, on a directory that the daemon has prepared."""
    return _store(name, directory)


def _store(name: str, directory: Path) -> LayerDirectory:
    if name not in _BACK_ENDS:
        raise Unprepared(
            f"there is no layer back end {name!r}", f"there are {', '.join(_BACK_ENDS)}"
        )
    return LayerDirectory(directory / name, _BACK_ENDS[name]())


def _try(name: str, directory: Path) -> None:
    """Run a trial of the back end in `directory`. Raises Unprepared with its error when it fails."""
    namespace = (
        ["unshare", "--mount", "--propagation", "slave"] if _BACK_ENDS[name]().mounts else []
    )
    try:
        trial = subprocess.run(
            [*namespace, *module_command(__name__), name, directory],
            env={**os.environ, **module_environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:  # no unshare(1), as on every system but Linux
        raise Unprepared(f"{error.filename}: {error.strerror}", str(error)) from None
    if trial.returncode != 0:
        last = trial.stderr.strip().splitlines()[-1:] or [f"exit status {trial.returncode}"]
        raise Unprepared(f"a trial failed: {last[0]}", trial.stderr)


def _trial(store: LayerDirectory) -> None:
    """Create two layers, the second with a rename, a removal and a change of owner, which often
    fail."""
    lower, upper = secrets.token_hex(32), secrets.token_hex(32)
    owner = 1 if os.geteuid() == 0 else os.geteuid()  # others give no file away
    with _workspace(store, None, lower) as root:
        (root / "directory").mkdir()
        (root / "directory" / "kept").write_text("kept")
        (root / "removed").write_text("removed")
    try:
        with _workspace(store, lower, upper) as root:
            (root / "directory").rename(root / "renamed")
            (root / "removed").unlink()
            os.chown(root / "renamed" / "kept", owner, -1)
        try:
            with store.open(upper) as tree:
                kept = tree / "renamed" / "kept"
                if list(tree.iterdir()) != [kept.parent] or kept.stat().st_uid != owner:
                    raise Unprepared("a layer differs from its workspace")
        finally:
            store.remove(upper)
    finally:
        store.remove(lower)


@contextlib.contextmanager
def _workspace(store: LayerDirectory, parent: str | None, key: str) -> Iterator[Path]:
    """An entered workspace that becomes layer `key` when the context exits without an error."""
    workspace = store.begin(parent, f"trial-{key[:16]}")
    try:
        with store.enter(workspace) as root:
            yield root
        store.commit(workspace, LayerRecord(key, parent, TRIAL, "trial", 1, 0.0))
    finally:
        store.discard(workspace)


if __name__ == "__main__":
    try:
        _trial(_store(sys.argv[1], Path(sys.argv[2])))
    except (DcdError, OSError) as error:
        sys.exit(" ".join(str(error).split("\n")))
