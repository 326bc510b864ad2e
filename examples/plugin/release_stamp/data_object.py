"""`<release>`: an element that this plug-in adds to the manifest's vocabulary, inside `<distro>`."""

from dcd.manifest.data_object import DataObject, attribute


class Release(DataObject, tag="release", extends=("distro",)):
    """What release the image is."""

    version: str = attribute("Its version.")
    codename: str | None = attribute("What people call it.", default=None)
    supported: bool = attribute("Whether it gets updates.", default=True)
