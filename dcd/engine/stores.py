"""The engine's stores for all data except events."""

from dataclasses import dataclass
from pathlib import Path

from statemachine.build import BuildState
from statemachine.errors import NotFound
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.layers import LayerStore
from store.logs import AttemptLogs
from store.packages import Packages


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one state directory. `state_id` marks what belongs to it, `secret_key` is the key of
    digests of secrets, `retired` are the back ends used earlier that still have files."""

    layers: LayerStore
    blobs: Blobs
    artifacts: Artifacts
    logs: AttemptLogs
    packages: Packages
    state_id: str
    secret_key: bytes = b""
    retired: tuple[LayerStore, ...] = ()

    def inputs(self, state: BuildState) -> dict[str, Path]:
        """The captured files of a build by their paths in its manifest. Raises NotFound."""
        for file in state.inputs:
            if not self.blobs.has(file.sha256):
                raise NotFound(
                    f"the captured file {file.path} is missing",
                    f"blob {file.sha256} is not in {self.blobs.directory}",
                    f"capture it again: dcctl resume {state.id} --manifest FILE",
                )
        return {file.path: self.blobs.path(file.sha256) for file in state.inputs}
