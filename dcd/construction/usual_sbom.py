"""The SBOM that every image with packages gets: a checkpoint after the last, unless the manifest has its own.

It is written into the tree, so it is in the plan, the status, the events and the stored manifest like every
other checkpoint, with a key and a layer of its own. Being the last, it changes no other key, and lists what
all checkpoints before it have put into the image. Where it cannot list the packages (this installation lacks
the extra `sbom`, a script has removed the package database) it warns and the build completes: `optional`.
"""

from dcd.checkpoints.publish.parts import is_publishing
from dcd.construction.short_forms import Default, made_checkpoint
from dcd.manifest.data_object import Element
from dcd.manifest.source import Source

_CLASS = "WriteSBOM"
_MODULE = "dcd/checkpoints/sbom"
_TRANSFERS = ("TransferDEB", "TransferIPS")


def add_sbom(source: Source) -> None:
    """Add the checkpoint to the distributions of the tree that get it."""
    if source.root.tag != "dc":
        return
    for distro in source.root.iterfind("distro[execution]"):
        checkpoints = distro.findall("execution/checkpoint")
        classes = {each.get("checkpoint_class", "") for each in checkpoints}
        if distro.get("sbom", "auto").strip() != "auto" or _CLASS in classes:
            continue
        transfers = [each for each in checkpoints if _is_transfer(each)]
        if not transfers:
            continue
        names = {each.get("name") for each in checkpoints}
        name = next(each for each in ("sbom", "write-sbom", "dcd-write-sbom") if each not in names)
        # The place of the transfer: what an SBOM lacks has its reason there.
        step = made_checkpoint(
            source, Default(name, _CLASS, (("optional", "true"),)), transfers[-1]
        )
        step.attrib.pop("type")
        step.set("mod_path", _MODULE)
        step.set("checkpoint_class", _CLASS)
        # What publishes comes last, and publishes the SBOM too.
        own = [each for each in checkpoints if not is_publishing(each.get("mod_path", ""))]
        (own or checkpoints)[-1].addnext(step)


def _is_transfer(checkpoint: Element) -> bool:
    module = checkpoint.get("mod_path", "").replace(".", "/")
    return checkpoint.get("checkpoint_class") in _TRANSFERS and module.startswith(
        "dcd/checkpoints/transfer/"
    )
