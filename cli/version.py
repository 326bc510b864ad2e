"""The version of dcctl, and what to say when the daemon is of another one.

Within an API version, fields and operations are only added: a dcctl and a daemon of different versions get
along until one asks for what the other does not know. The headers DCD-Version and DCD-API of every answer
tell; they are looked at when something was not understood.
"""

from email.message import Message

API = "v1"
"""The API that this dcctl speaks."""


def own_version() -> str:
    """The version of the installed package that this module is of."""
    # Slow to import, and most commands do not need it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dcd")
    except PackageNotFoundError:
        return "(not installed)"


def difference(headers: Message) -> str:
    """How the daemon that sent these headers differs from this dcctl, and what to do; "" when it does
    not differ or does not say."""
    theirs, api = headers.get("DCD-Version"), headers.get("DCD-API")
    ours = own_version()
    if theirs is None or (theirs == ours and api == API):
        return ""
    return (
        f"dcctl is version {ours} (API {API}), the daemon is version {theirs} (API {api}): "
        "install the same version of both"
    )
