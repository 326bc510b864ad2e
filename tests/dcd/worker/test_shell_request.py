"""A shell runs as root on a request of a process without rights: it enters workspaces, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.worker.request import ShellRequest
from dcd.worker.shell import _require_workspace
from statemachine.errors import PermissionDenied
from store.layers.choose import open_store


@pytest.fixture
def request_of_a_workspace(tmp_path: Path) -> ShellRequest:
    layers = open_store("copy", tmp_path / "layers")
    (tmp_path / "layers").mkdir(mode=0o700)
    layers.prepare()
    return ShellRequest("", tmp_path / "layers", layers.begin(None, "shell-1"))


def test_a_workspace_is_entered(request_of_a_workspace: ShellRequest) -> None:
    _require_workspace(request_of_a_workspace)


@pytest.mark.parametrize(
    "changed",
    [
        {"directory": Path("/etc")},
        {"root": Path("/etc")},
        {"document": Path("/etc/passwd")},
        {"parents": (Path("/"),)},
        {"name": "../../../../etc"},
        {"backend": "../.."},
    ],
    ids=str,
)
def test_other_directories_are_refused(
    request_of_a_workspace: ShellRequest, changed: dict[str, Any]
) -> None:
    workspace = replace(request_of_a_workspace.workspace, **changed)
    with pytest.raises(PermissionDenied):
        _require_workspace(replace(request_of_a_workspace, workspace=workspace))


def test_a_store_of_layers_that_others_may_change_is_refused(
    request_of_a_workspace: ShellRequest,
) -> None:
    request_of_a_workspace.layers.chmod(0o777)
    with pytest.raises(PermissionDenied):
        _require_workspace(request_of_a_workspace)
