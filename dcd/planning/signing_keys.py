"""The user's key for Secure Boot, compared with its certificate before anything is built.

The key is a secret of the host: a planner reads it only after the daemon has shown it, for a user who may use
it (`dcd.platform.sight`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from dcd.checkpoints.secure_boot import signing_of
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.secrets import secret_text
from dcd.planning.load import Loaded
from dcd.platform.efi_signing import checked_pair
from dcd.platform.sight import require_shown
from statemachine.errors import DcdError


def check_signing(loaded: Loaded, path_of: Callable[[str], Path]) -> Iterator[Diagnostic]:
    """Errors for a key that is missing, cannot sign, or does not match its certificate. `path_of` returns the
    path of a captured file by its sha256. Raises Unseen in a planner."""
    signing = signing_of(loaded.doc)
    if signing is None:
        return
    (sha256,) = (file.sha256 for file in loaded.inputs if file.path == signing.certificate)
    key = Path(signing.key)
    require_shown([key])
    try:
        checked_pair(signing.key, secret_text(key), path_of(sha256), signing.certificate)
    except DcdError as failure:
        place = signing.place_of("key")
        yield error(place, failure.brief, failure.details, failure.resolution)
