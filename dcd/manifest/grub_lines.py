"""Lines of GRUB 0.97 for illumos in old manifests, and what they mean for an entry of today.

An entry starts the image's own kernel with its boot archive; of its lines only the arguments of the kernel
count. Pure. Source: the manual of GRUB 0.97; the original's manifests.
"""

import re

_KERNEL = re.compile(r"kernel\$?\s+(?P<path>\S+)\s*(?P<arguments>.*)")
_STANDARD_KERNEL = re.compile(r"(/boot)?/platform/i86pc/kernel/(\$ISADIR/|amd64/)?unix")
_STANDARD_MODULE = re.compile(
    r"module\$?\s+(/boot)?/platform/i86pc/((\$ISADIR|amd64)/)?boot_archive"
)


def kernel_arguments(line: str) -> str | None:
    """The arguments of the kernel in a line; "" for a line without; None for a line that means something
    else than starting the image's own kernel."""
    text = " ".join(line.split())
    kernel = _KERNEL.fullmatch(text)
    if kernel and _STANDARD_KERNEL.fullmatch(kernel["path"]):
        return kernel["arguments"]
    return "" if _STANDARD_MODULE.fullmatch(text) else None
