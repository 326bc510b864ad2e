"""Signatures by gpg(1), which users of distributions check with gpgv(1).

gpg and the agent that it starts run without network in a PID namespace of their own, so nothing of them
outlives the signature. Source: gpg(1), unshare(1).
"""

import os
import subprocess
from pathlib import Path

from dcd.signing.keys import BadKey
from statemachine.errors import DcdError, Unprepared
from store.host.tools import TOOL_PATH, missing, remedy

SECONDS = 60.0


def sign_by_gpg(home: Path, key: str, content: bytes) -> bytes:
    """An armoured detached signature of `content` by the key with that id in gpg's directory `home`. Raises
    Unprepared without gpg, BadKey when it cannot use the key, DcdError when it does not end."""
    if missing(["gpg"]):
        raise Unprepared(
            "gpg is not installed", "the setting signing_gpg needs it", remedy(["gpg"])
        )
    options = ["--batch", "--no-tty", "--armor", "--detach-sign", "--pinentry-mode", "error"]
    command = ["gpg", "--homedir", str(home), *options, "--local-user", key]
    if os.geteuid() == 0:
        apart = ["--net", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        command = ["unshare", *apart, *command]
    try:
        done = subprocess.run(
            command,
            input=content,
            env={"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", "HOME": "/"},
            cwd="/",
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DcdError(
            f"gpg did not sign with the key {key} in {home}",
            f"it had {error.timeout:g} seconds; it may wait for a lock, a card or a password",
            f"look with: gpg --homedir {home} --list-secret-keys; the key needs no password",
        ) from error
    if done.returncode != 0:
        raise BadKey(
            f"gpg cannot sign with the key {key} in {home}",
            done.stderr.decode("utf-8", "replace").strip()[-1000:],
            f"look with: gpg --homedir {home} --list-secret-keys; the key needs no password",
        )
    return done.stdout
