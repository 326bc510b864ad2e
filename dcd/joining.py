"""What joins this daemon to others, if its configuration says so: a farm, and a registry for layers.

Without these settings nothing of it is imported, and its libraries need not be there.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from dcd.configuration import Configuration
from dcd.engine.stores import Stores
from statemachine.errors import Unavailable
from store.eventlog import EventLog

if TYPE_CHECKING:
    from dcd.farm.member import FarmMember
    from dcd.farm.sharing import SharedLayers


async def as_member(
    settings: Callable[[], Configuration], committed: Callable[[int, float | None], None]
) -> "FarmMember | None":
    """This daemon as a member of a farm; None on a single machine. `committed` is called after each commit.
    Raises Unavailable, UsageError."""
    if not settings().farm_database:
        return None
    try:
        from dcd.farm.member import FarmMember
    except ImportError as error:
        raise Unavailable(
            "this daemon cannot be a member of a farm", str(error), "pip install 'dcd[farm]'"
        ) from error
    return await asyncio.to_thread(FarmMember, settings, committed, asyncio.get_running_loop())


def login_of_registry(settings: Configuration) -> tuple[str, str] | None:
    """User and password for the registry for layers, which only root may be able to read; None without them.
    Raises Unprepared."""
    if not (settings.farm_registry and settings.farm_registry_login):
        return None
    from dcd.farm.shared_registry import read_login

    return read_login(settings)


def shared_layers(
    settings: Callable[[], Configuration],
    login: tuple[str, str] | None,
    stores: Stores,
    log: EventLog,
    host: str,
) -> "SharedLayers | None":
    """What this daemon shares with others, as the member `host` of a farm ("": it is in none); None without a
    registry."""
    if not settings().farm_registry:
        return None
    from dcd.farm.sharing import SharedLayers

    return SharedLayers(settings, login, stores, log, host)
