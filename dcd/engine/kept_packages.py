"""The files of the package store that stay: what builds and layers name.

A build that has its products, or is on the way to them, keeps what its transfers captured until it is
removed; a layer that exists keeps it too, since the next build may reuse it. The rest is a cache. Blocking.
"""

from collections.abc import Collection

import structlog

from dcd.engine.stores import Stores
from statemachine.errors import DcdError
from store.eventlog import EventLog

logger = structlog.get_logger()


def kept_packages(stores: Stores, events: EventLog, without: Collection[str] = ()) -> set[str]:
    """The digests of the files that stay. `without` are keys of layers that are about to go."""
    lists = events.resolved_lists()
    lists |= {
        layer.record.resolved
        for layer in stores.layers.layers()
        if layer.record.resolved and layer.record.key not in without
    }
    kept = set(lists)
    for name in lists:
        try:
            kept |= stores.packages.resolved(name).stored().keys()
        except DcdError as error:
            # What it names is unknown, so it protects nothing; exports and rebuilds report it.
            logger.warning("a list of captured packages cannot be read", error=str(error))
    return kept
