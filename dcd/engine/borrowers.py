"""The user of a build's secrets: its submitter, with the present groups from the user database."""

import grp
import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import suppress

from dcd.configuration import Configuration
from dcd.manifest.secrets import Borrower, require_use
from statemachine.events import Actor

STARTER = os.geteuid()
"""The user who started the daemon, as which it may not run on."""


def has_every_role(actor: Actor) -> bool:
    """Whether the actor is root, the user who started the daemon, or the daemon, which need no look-up."""
    return actor.uid is None or actor.uid in (0, STARTER)


def borrower(configuration: Configuration, actor: Actor) -> Borrower | None:
    """The actor as a user of secrets; None for root, the daemon's own user and the daemon, who may use
    all."""
    if has_every_role(actor) or actor.uid is None:
        return None
    gids = groups_of(actor)
    return Borrower(
        actor.uid,
        actor.user,
        tuple(sorted(gids)),
        tuple(_group_names(gids)),
        configuration.secret_users,
    )


def require_secrets(configuration: Configuration, actor: Actor, secrets: Iterable[str]) -> None:
    """Raise PermissionDenied for a secret that the actor may not use at present."""
    require_use(borrower(configuration, actor), secrets)


def groups_of(actor: Actor) -> frozenset[int]:
    """The ids of the actor's present groups, from the user database."""
    assert actor.uid is not None
    assert actor.gid is not None
    try:
        name = pwd.getpwuid(actor.uid).pw_name
    except KeyError:
        return frozenset((actor.gid,))
    return frozenset(os.getgrouplist(name, actor.gid))


def _group_names(gids: Iterable[int]) -> Iterator[str]:
    for gid in sorted(gids):
        with suppress(KeyError):
            yield grp.getgrgid(gid).gr_name
