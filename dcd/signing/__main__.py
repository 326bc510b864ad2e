"""`python -m dcd.signing FD`: the signer, the one process that reads a signing key.

FD is the key's file, which root has opened. The process reads it, becomes a user that owns nothing and that
no other process can trace, and only then reads the request from standard input: an object with `statements`,
signed as DSSE envelopes, and `others`, signed as they are. It has no network, writes to standard
output only, and ends. Source: the DSSE protocol, https://github.com/secure-systems-lab/dsse.
"""

import json
import os
import resource
import sys

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from dcd.signing.process import BAD_KEY
from dcd.signing.statements import PAYLOAD_TYPE
from store.host.capabilities import become, give_up_new_privileges
from store.host.identity import owner_of_nothing
from store.host.kernel_scopes import close_to_others
from store.host.system_calls import compile_filter, install

_MOST_KEY_BYTES = 64 * 1024


def main(key: int) -> int:
    """Sign. Returns the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pem = _read(key)
    _give_up_rights()
    try:
        signer = CryptoSigner(_key(pem))
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_KEY
    request = json.load(sys.stdin)
    envelopes = []
    for text in request["statements"]:
        envelope = Envelope(text.encode(), PAYLOAD_TYPE, {})
        envelope.sign(signer)
        envelopes.append(envelope.to_dict())
    signatures = [signer.sign(text.encode()).signature for text in request["others"]]
    answer = {"key_id": signer.public_key.keyid, "envelopes": envelopes, "signatures": signatures}
    json.dump(answer, sys.stdout)
    return 0


def _read(key: int) -> bytes:
    with os.fdopen(key, "rb") as file:
        return file.read(_MOST_KEY_BYTES)


def _give_up_rights() -> None:
    if os.geteuid() == 0:
        nobody = owner_of_nothing("signer")
        become(nobody, nobody)
    else:
        give_up_new_privileges()
    if sys.platform == "linux":
        close_to_others()
        if program := compile_filter(os.uname().machine):
            install(program)


def _key(pem: bytes) -> Ed25519PrivateKey:
    """The key. Raises ValueError."""
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError("it is encrypted with a password; the daemon has none") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is no private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is a key of another kind; Ed25519 is needed")
    return key


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
