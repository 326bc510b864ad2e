"""Access control: roles by user and group, and the right to run code on the host.

The kernel identifies the peer (`dcd.platform.peer`); the configuration assigns roles. Each role
includes the previous ones: observe, submit, operate, administer. `host_code` is independent of them.
Root, the daemon's own user and the daemon itself have all roles, so a private daemon needs no
configuration. Groups are looked up in the user database for each decision: removing a user from a group
takes effect at once, even while the user is logged in.
"""

import grp
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from dcd.configuration import Configuration
from dcd.engine.borrowers import groups_of, has_every_role
from statemachine.errors import PermissionDenied
from statemachine.events import Actor


class Role(StrEnum):
    """The roles that the configuration grants. The values are the names of the settings."""

    OBSERVE = "observe"
    SUBMIT = "submit"
    OPERATE = "operate"
    ADMINISTER = "administer"
    HOST_CODE = "host_code"


class Action(StrEnum):
    """The actions that need a role, as text that follows "may not"."""

    SEE = "see builds"
    SUBMIT = "submit builds"
    CONTROL = "pause, resume, move, cancel or remove this build"
    RUN_HOST_CODE = "run its own code on the host"
    ADMINISTER = "administer the daemon"


_LADDER = (Role.OBSERVE, Role.SUBMIT, Role.OPERATE, Role.ADMINISTER)

_NEEDS = {
    Action.SEE: Role.OBSERVE,
    Action.SUBMIT: Role.SUBMIT,
    Action.CONTROL: Role.OPERATE,
    Action.RUN_HOST_CODE: Role.HOST_CODE,
    Action.ADMINISTER: Role.ADMINISTER,
}


def require(
    configuration: Configuration,
    actor: Actor,
    action: Action,
    *,
    owner: int | None = None,
    held: frozenset[Role] | None = None,
) -> None:
    """Raise PermissionDenied, with the missing role, unless `actor` may do `action`.

    `owner` is the uid of the build's submitter, for `Action.CONTROL`: the actor's own builds need only
    the role submit. `held` are the actor's roles if they are already known.
    """
    role = _NEEDS[action]
    if action is Action.CONTROL and owner is not None and owner == actor.uid:
        role = Role.SUBMIT
    held = roles(configuration, actor) if held is None else held
    if role in held:
        return
    # An actor without a uid is the daemon and holds every role.
    assert actor.uid is not None
    mine = ", ".join(entry.value for entry in Role if entry in held) or "no role"
    raise PermissionDenied(
        f"{actor.user} (uid {actor.uid}) may not {action}",
        f"this needs {role.value}; {actor.user} has {mine}",
        f"an administrator can add {actor.user}, or a group as @GROUP, to "
        f"`{role.value}` in the daemon's configuration and reload it; `dcctl config` "
        "shows the present values",
    )


def require_readable(actor: Actor, file: Path, *, owner: int | None) -> None:
    """Raise PermissionDenied unless `actor` may read an artifact: the submitter `owner` of its build and
    users with permission for the file itself may. Queries the user database."""
    if has_every_role(actor) or (owner is not None and owner == actor.uid):
        return
    if (gid := file.stat().st_gid) not in groups_of(actor):
        raise PermissionDenied(
            f"{actor.user} (uid {actor.uid}) may not read the artifacts of this build",
            f"its submitter, and members of group {_group_name(gid)}, may",
            f"an administrator can add {actor.user} to the group, or set another `artifact_group`",
        )


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def roles(configuration: Configuration, actor: Actor) -> frozenset[Role]:
    """All roles of `actor`, including those implied by a higher one. Queries the user database, which
    may be a slow directory service."""
    if has_every_role(actor):
        return frozenset(Role)
    groups = groups_of(actor)
    held = {role for role in Role if _names(getattr(configuration, role.value), actor, groups)}
    for index, role in enumerate(_LADDER):
        if role in held:
            held.update(_LADDER[:index])
    return frozenset(held)


def _names(entries: Iterable[str], actor: Actor, groups: frozenset[int]) -> bool:
    for entry in entries:
        if entry.startswith("@"):
            try:
                if grp.getgrnam(entry[1:]).gr_gid in groups:
                    return True
            except KeyError:
                continue  # a group that does not exist has no members
        elif entry == actor.user:
            return True
    return False
