"""The engine's stores for all data except events."""

from dataclasses import dataclass

from dcd.launcher.client import Privileged
from statemachine.build import BuildState
from statemachine.errors import NotFound
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.layers import Layers
from store.logs import AttemptLogs
from store.packages import Packages


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one state directory. `privileged` changes all of them but `blobs`; `artifacts` and `logs`
    are for reading."""

    privileged: Privileged
    blobs: Blobs
    artifacts: Artifacts
    logs: AttemptLogs
    packages: Packages

    @property
    def layers(self) -> Layers:
        """The layers in use."""
        return self.privileged.layers

    def inputs(self, state: BuildState) -> dict[str, str]:
        """The digests of a build's captured files by their paths in its manifest. Raises NotFound."""
        for file in state.inputs:
            if not self.blobs.has(file.sha256):
                raise NotFound(
                    f"the captured file {file.path} is missing",
                    f"blob {file.sha256} is not in {self.blobs.directory}",
                    f"capture it again: dcctl resume {state.id} --manifest FILE",
                )
        return {file.path: file.sha256 for file in state.inputs}
