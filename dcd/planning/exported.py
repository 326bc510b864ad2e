"""A manifest as others may have it who build the same image: without secrets, and complete for its bytes.

A password of an account becomes the hash that is in the image anyway. References to secrets of a server stay
references. Checkpoints that only boot products are left out: they make none, and may need a password. Raises
Refused for a manifest that has other secrets.
"""

from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.manifest.canonical import canonical_text, restore
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import CheckpointSpec
from dcd.manifest.objects.configuration import Password, User
from dcd.manifest.withheld import withhold
from dcd.planning.ingredients import software_and_configurations
from dcd.platform.password_hash import hashed
from statemachine.errors import Refused

_LONG = 8
"""A shorter password may be a part of other words by accident."""


def exported(canonical: str, epoch: int) -> str:
    """The manifest as canonical text, of a build with this time."""
    doc = restore(canonical)
    boots = [
        spec
        for spec in doc.volatile.get_descendants(class_type=CheckpointSpec)
        if spec.checkpoint_class == VerifyBoot.__name__
    ]
    for spec in boots:
        for _, node in software_and_configurations(doc, spec.name):
            node.delete()
        spec.delete()
    plain = _hash_passwords(doc, epoch)
    text = canonical_text(doc)
    if any(password in text for password in plain if len(password) >= _LONG) or _has_secrets(text):
        raise Refused(
            "this build cannot be exported: its manifest has secrets besides the passwords of accounts",
            "a login in an address, the password of a target, or a password in a script",
            "refer to secrets by file or env in the manifest, and build again",
        )
    return text


def _hash_passwords(doc: DataObjectCache, epoch: int) -> set[str]:
    """Replace the passwords by their hashes in the image. Returns the passwords."""
    plain = set()
    for user in doc.volatile.get_descendants(class_type=User):
        for password in user.get_children(class_type=Password):
            if password.text and not password.hashed:
                plain.add(password.text)
                password.text = hashed(password.text, f"{epoch}\0{user.name}")
                password.hashed = True
    return plain


def _has_secrets(text: str) -> bool:
    doc = restore(text)
    for password in doc.volatile.get_descendants(class_type=Password):
        password.text = ""
    return bool(withhold(doc))
