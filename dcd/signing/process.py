"""The signer's process, as the launcher uses it: one for each request, with the key as an open file.

It has no network and no way to root: it reads the key, becomes a user that owns nothing, and then reads
what to sign. Standard library only.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.signing.keys import BadKey, open_key, require_library
from statemachine.errors import DcdError
from store.host.forking import patiently
from store.host.interpreter import module_command, module_environment
from store.host.tools import TOOL_PATH

SECONDS = 60.0
"""The time limit of a signer."""

BAD_KEY = 3
"""The exit status of a signer whose key is none; its output says why."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A DSSE envelope for each statement, and a signature (hex) for each other text."""

    key_id: str
    envelopes: tuple[dict[str, Any], ...]
    signatures: tuple[str, ...]


def sign(key: Path, statements: Sequence[str], others: Sequence[str] = ()) -> Signed:
    """Sign in-toto statements and other texts. Raises BadKey, Unprepared, DcdError."""
    require_library()
    try:
        done = _run(key, json.dumps({"statements": list(statements), "others": list(others)}))
    except subprocess.TimeoutExpired as error:
        raise DcdError(
            "the signer did not end",
            f"it had {error.timeout:g} seconds for {len(statements) + len(others)} signatures",
            "resume the build when this host has less to do",
        ) from error
    if done.returncode == BAD_KEY:
        raise BadKey(
            f"{key} holds no signing key",
            done.stderr.decode("utf-8", "replace").strip(),
            "make one as root: dcd key new FILE",
        )
    try:
        found = json.loads(done.stdout)
        return Signed(
            str(found["key_id"]), tuple(found["envelopes"]), tuple(map(str, found["signatures"]))
        )
    except (ValueError, KeyError, TypeError):
        raise DcdError(
            "the signer failed",
            done.stderr.decode("utf-8", "replace")[-2000:].strip(),
            "please report it",
        ) from None


def _run(key: Path, texts: str) -> "subprocess.CompletedProcess[bytes]":
    with open_key(key) as file:
        return patiently(
            lambda: subprocess.run(
                _command(file.fileno()),
                input=texts.encode(),
                env={"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", **module_environment()},
                cwd="/",
                capture_output=True,
                pass_fds=(file.fileno(),),
                start_new_session=True,
                timeout=SECONDS,
                check=False,
            )
        )


def _command(key: int) -> list[str]:
    separate = ["unshare", "--net", "--ipc", "--uts"] if os.geteuid() == 0 else []
    kept = separate if shutil.which("unshare", path=TOOL_PATH) else []
    return [*kept, *module_command("dcd.signing"), str(key)]
