"""Hosts that let users make no user namespaces: in a chroot nobody makes any, and hardened kernels leave them
to root."""

import os
import subprocess

import pytest

from tests.conftest import NO_PACKAGE_HELPS

NOBODY = 65534

AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
"""The beginning of a command that root has run as an ordinary user."""

_REFUSALS = ("Operation not permitted", "No space left on device")
"""EPERM, and ENOSPC at the limit user.max_user_namespaces: unshare(2)."""


def need_user_namespaces(*beginning: str) -> None:
    """Skip the test where the kernel refuses a user namespace to the user of commands that begin so."""
    command = [*beginning, "unshare", "--user", "--map-root-user", "true"]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    tried = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if tried.returncode:
        said = tried.stderr.strip()
        assert said.startswith("unshare: ") and said.endswith(_REFUSALS), said
        user = "ordinary users" if beginning else "nobody"
        pytest.skip(f"{NO_PACKAGE_HELPS} lets {user} make {'no ' * bool(beginning)}user namespaces")
