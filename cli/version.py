"""The version of dcctl, and the advice for a daemon of another version.

Within an API version, fields and operations are only added: a dcctl and a daemon of different versions
work together until one uses a feature that the other lacks. The headers DCD-Version and DCD-API of
every response give the daemon's versions; they are checked when a request or response was not
understood.
"""

from email.message import Message

API = "v1"
"""The API version of this dcctl."""


def own_version() -> str:
    """The version of the installed package."""
    # Slow to import, and not needed by most commands.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dcd")
    except PackageNotFoundError:
        return "(not installed)"


def difference(headers: Message) -> str:
    """The version difference between the daemon that sent these headers and this dcctl, with the
    remedy; "" when there is none or the headers are missing."""
    theirs, api = headers.get("DCD-Version"), headers.get("DCD-API")
    ours = own_version()
    if theirs is None or (theirs == ours and api == API):
        return ""
    return (
        f"dcctl is version {ours} (API {API}), the daemon is version {theirs} (API {api}): "
        "install the same version of both"
    )
