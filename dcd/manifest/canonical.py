"""A manifest as it is stored: canonical XML text, and the DOC that it makes again.

Includes and parameters are resolved, defaults written out, comments and formatting gone.
"""

import sys
from dataclasses import replace

from dcd.manifest.doc import DataObjectCache
from dcd.manifest.parameters import escape, unescape
from dcd.manifest.plugins import installed_registry
from dcd.manifest.registry import Registry, indented, write
from dcd.manifest.source import LIMITS, read


def canonical_text(doc: DataObjectCache) -> str:
    """The manifest in the DOC's volatile part as canonical XML text."""
    elements = [element for each in doc.volatile.children if (element := write(each)) is not None]
    for element in elements:
        escape(element)
    return "".join(map(indented, elements))


def restore(
    canonical: str, persistent: str | None = None, registry: Registry | None = None
) -> DataObjectCache:
    """The DOC of a stored canonical manifest and of the persistent part saved with a layer. Its objects
    have no origin: the lines of the stored text are not those of the author's file."""
    # The manifest was within the limits in force when it was stored.
    big = replace(LIMITS, max_bytes=LIMITS.max_expanded_bytes * 4, max_elements=sys.maxsize)
    source = read(canonical, "the stored manifest", big)
    unescape(source.root)
    known = registry or installed_registry()
    doc = DataObjectCache(known)
    doc.volatile.insert_children(known.read(source.root))
    doc.restore_persistent(persistent)
    return doc
