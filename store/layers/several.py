"""Layers in two places: those of all builds, and beside them those of builds in varied surroundings.

A build that repeats another one, to show that its results do not depend on where they are made, keeps its
layers elsewhere: on another back end if one works, and on another file system if one is mounted there. The
rest of the project sees one `LayerStore`: a key or a workspace belongs to the place that has it. Layers never
stand on layers of the other place. The second place is made when it is needed for the first time.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from store.layers.directory import LayerDirectory
from store.layers.interface import Check, Layer, LayerRecord, Workspace, nothing


class LayersInTwoPlaces:
    """See the module. Implements LayerStore. `elsewhere` says by a workspace's name whether its first layer
    belongs to the second place, `others` are the back ends that have something there, and `make` prepares
    the one for new layers."""

    def __init__(
        self,
        main: LayerDirectory,
        others: Sequence[LayerDirectory],
        elsewhere: Callable[[str], bool],
        make: Callable[[], LayerDirectory],
    ) -> None:
        self.name, self.directory = main.name, main.directory
        self._main = main
        self._places = [main, *others]
        self._elsewhere = elsewhere
        self._make = make
        self._varied: LayerDirectory | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        for place in self._places:
            place.prepare()

    def begin(self, parent: str | None, name: str) -> Workspace:
        if parent is not None:
            return self._of(parent).begin(parent, name)
        place = self._new() if self._elsewhere(name) else self._main
        return place.begin(None, name)

    def branch(self, source: str, name: str) -> Workspace:
        return self._with(source).branch(source, name)

    def opened(self, name: str) -> Workspace:
        return self._with(name).opened(name)

    def hold(self, name: str) -> Workspace:
        return self._with(name).hold(name)

    def let_go(self, name: str) -> None:
        # Its directory may have become a layer, so nobody has it any more.
        for place in self._places:
            place.let_go(name)

    def release(self, name: str) -> None:
        self._with(name).release(name)

    def enter(self, workspace: Workspace) -> AbstractContextManager[Path]:
        return self._below(workspace).enter(workspace)

    def commit(
        self,
        workspace: Workspace,
        record: LayerRecord,
        document: str | None = None,
        require: Callable[[], None] = nothing,
    ) -> Layer:
        return self._below(workspace).commit(workspace, record, document, require)

    def own_file(self, workspace: Workspace, path: str) -> Path | None:
        return self._below(workspace).own_file(workspace, path)

    def discard(self, workspace: Workspace) -> None:
        self._below(workspace).discard(workspace)

    def find(self, key: str) -> Layer | None:
        return self._of(key).find(key)

    def stale(self, key: str) -> bool:
        return self._of(key).stale(key)

    def check(self, key: str, whole: bool, idle: bool, expected: str) -> Check:
        return self._of(key).check(key, whole, idle, expected)

    def touch(self, key: str) -> None:
        self._of(key).touch(key)

    def document(self, key: str) -> str | None:
        return self._of(key).document(key)

    def remove(self, key: str) -> None:
        self._of(key).remove(key)

    def open(self, key: str) -> AbstractContextManager[Path]:
        return self._of(key).open(key)

    def lent(self, key: str, path: str) -> AbstractContextManager[Path]:
        return self._of(key).lent(key, path)

    def entry(self, key: str, path: str) -> Path:
        return self._of(key).entry(key, path)

    def file(self, key: str, path: str) -> Path:
        return self._of(key).file(key, path)

    def layers(self) -> Sequence[Layer]:
        return [layer for place in self._places for layer in place.layers()]

    def stale_layers(self) -> Sequence[Layer]:
        return [layer for place in self._places for layer in place.stale_layers()]

    def workspaces(self) -> Sequence[tuple[str, int]]:
        return [each for place in self._places for each in place.workspaces()]

    def reconcile(self, known_keys: Collection[str], living: Collection[str]) -> Sequence[str]:
        return [
            removed for place in self._places for removed in place.reconcile(known_keys, living)
        ]

    def _new(self) -> LayerDirectory:
        """The second place, for new layers."""
        with self._lock:
            if self._varied is None:
                made = self._make()
                known = [each for each in self._places if each.directory == made.directory]
                self._varied = known[0] if known else made
                if not known:
                    self._places = [*self._places, made]
            return self._varied

    def _of(self, key: str) -> LayerDirectory:
        having = (each for each in self._places if (each.directory / key).is_dir())
        return next(having, self._main)

    def _with(self, name: str) -> LayerDirectory:
        having = (each for each in self._places if (each.directory / ".work" / name).is_dir())
        return next(having, self._main)

    def _below(self, workspace: Workspace) -> LayerDirectory:
        owner = workspace.directory.parents[1]
        return next(each for each in self._places if each.directory == owner)
