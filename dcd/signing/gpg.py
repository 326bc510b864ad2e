"""Signatures by gpg(1), which users of distributions check with gpgv(1).

gpg and the agent that it starts run without network in a PID namespace of their own, so nothing of them
outlives the signature. Source: gpg(1), unshare(1).
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dcd.signing.keys import BadKey
from statemachine.errors import DcdError, Unprepared
from store.host.regular import read_regular
from store.host.tools import TOOL_PATH, missing, remedy

SECONDS = 60.0

MOST_BYTES = 1 << 20
"""Size limit of a signature."""


def sign_by_gpg(home: Path, key: str, content: bytes, earlier: Path | None = None) -> bytes:
    """An armoured detached signature of `content` by the key with that id in gpg's directory `home`. A
    signature has a time, so what the file `earlier` has is returned if it is one of this content by this key.
    Raises Unprepared without gpg, BadKey when it cannot use the key, DcdError when it does not end."""
    if missing(["gpg"]):
        raise Unprepared(
            "gpg is not installed", "the setting signing_gpg needs it", remedy(["gpg"])
        )
    if earlier is not None and _is_valid(home, key, content, earlier):
        return read_regular(earlier, MOST_BYTES)
    options = ["--armor", "--detach-sign", "--pinentry-mode", "error", "--local-user", key]
    done = _gpg(home, key, options, content)
    if done.returncode != 0:
        raise BadKey(
            f"gpg cannot sign with the key {key} in {home}",
            done.stderr.decode("utf-8", "replace").strip()[-1000:],
            f"look with: gpg --homedir {home} --list-secret-keys; the key needs no password",
        )
    return done.stdout


def _is_valid(home: Path, key: str, content: bytes, signature: Path) -> bool:
    """Whether the file is a good signature by the key. Source: doc/DETAILS of GnuPG, VALIDSIG."""
    if not signature.is_file():
        return False
    verified = _gpg(home, key, ["--status-fd", "1", "--verify", str(signature), "-"], content)
    listed = _gpg(home, key, ["--with-colons", "--list-keys", key])
    if verified.returncode != 0 or listed.returncode != 0:
        return False
    lines = [line.split() for line in verified.stdout.decode("utf-8", "replace").splitlines()]
    signers = {line[-1] for line in lines if line[:2] == ["[GNUPG:]", "VALIDSIG"]}
    fields = [line.split(":") for line in listed.stdout.decode("utf-8", "replace").splitlines()]
    return bool(signers) and signers <= {each[9] for each in fields if each[0] == "fpr"}


def _gpg(
    home: Path, key: str, options: Sequence[str], content: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    command = ["gpg", "--homedir", str(home), "--batch", "--no-tty", *options]
    if os.geteuid() == 0:
        apart = ["--net", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
        command = ["unshare", *apart, *command]
    try:
        return subprocess.run(
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
