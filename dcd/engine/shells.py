"""Shells in builds: throw-away workspaces, each for the life of a shell.

A shell's workspace is based on the layer of a completed checkpoint, or on the workspace of the failed
attempt, which itself never changes; so several shells can be open at once, and no change in one affects
the build. This module also releases the kept workspace of a failed build, when the build continues or
ends and the last shell on it has closed. The next start kills and removes shells left by a dead daemon.
Used from the event loop's thread only.
"""

import asyncio
import secrets

import structlog

from dcd.engine.stores import Stores
from dcd.engine.workspaces import kept_workspace
from dcd.worker.request import ShellRequest
from statemachine.build import BuildState
from statemachine.errors import DcdError, NotFound, Refused
from store.layers import Workspace

logger = structlog.get_logger()

SHELL = "shell-"
"""The prefix of the names of shells' workspaces."""


class Shells:
    """The open shells, and the kept workspaces that wait for them to close."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._open: dict[str, tuple[ShellRequest, str, str | None]] = {}
        """By workspace: the shell, its build, and the kept workspace on which it is based."""
        self._released: set[str] = set()

    async def open(self, state: BuildState, at: str | None) -> tuple[ShellRequest, str]:
        """Create a workspace for a shell.

        Returns it with a description of its state: as left by the failed attempt, or after the last
        completed checkpoint, or after checkpoint `at`. Raises NotFound when the layer was removed,
        Refused when the checkpoint has not completed.
        """
        name = f"{SHELL}{secrets.token_hex(8)}"
        kept = kept_workspace(state)
        if kept and state.next and at in (None, state.next.name):
            try:
                workspace = await asyncio.to_thread(self._stores.layers.branch, kept, name)
            except NotFound:
                logger.info("no workspace is kept", build=state.id, workspace=kept)
            else:
                attempt = f"attempt {state.next.attempts} at {state.next.name}"
                return await self._opened(state, workspace, kept), f"as {attempt} left it"
        index = _completed(state, at)
        record = state.checkpoints[index]
        try:
            workspace = await asyncio.to_thread(self._stores.layers.begin, record.key, name)
        except NotFound as error:
            raise NotFound(
                f"the layer of {record.name} was removed",
                error.brief,
                "submit the manifest again or resume the build, which rebuilds the layer",
            ) from error
        return await self._opened(state, workspace, None), f"after {record.name}"

    async def close(self, shell: ShellRequest) -> None:
        """End the remaining processes of a shell and remove its workspace. Idempotent."""
        name = shell.workspace.name
        if name not in self._open:
            return
        _, build, kept = self._open[name]
        try:
            await asyncio.to_thread(self._stores.privileged.close_shell, build, name)
        except (DcdError, OSError) as error:
            logger.error("a shell's workspace is kept until the next start", error=str(error))
        self._open.pop(name, None)
        if kept in self._released:
            await self._release(kept)

    async def close_all(self) -> None:
        """Close all shells, when the daemon stops."""
        for shell, _, _ in list(self._open.values()):
            await self.close(shell)

    async def release(self, state: BuildState) -> None:
        """Release the workspace that a build in this state has kept, if any."""
        if kept := kept_workspace(state):
            self._released.add(kept)
            await self._release(kept)

    async def _release(self, kept: str) -> None:
        if all(source != kept for _, _, source in self._open.values()):
            self._released.discard(kept)
            await asyncio.to_thread(self._stores.layers.release, kept)

    async def _opened(
        self, state: BuildState, workspace: Workspace, kept: str | None
    ) -> ShellRequest:
        mark = self._stores.privileged.marker
        marker = await asyncio.to_thread(mark, state.id, workspace.name)
        shell = ShellRequest(marker, workspace.place, workspace)
        self._open[workspace.name] = (shell, state.id, kept)
        logger.info("shell opened", build=state.id, workspace=workspace.name)
        return shell


def _completed(state: BuildState, at: str | None) -> int:
    """The index of the requested completed checkpoint. Raises Refused."""
    index = state.completed - 1 if at is None else state.index(at)
    if 0 <= index < state.completed:
        return index
    done = [record.name for record in state.checkpoints[: state.completed]]
    raise Refused(
        f"{at or 'no checkpoint'} has {'not ' if at else ''}completed in build {state.id}",
        f"completed: {', '.join(done) or 'none'}",
        "give a completed checkpoint with --at" if done else "wait until one has completed",
    )
