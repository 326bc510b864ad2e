"""Reading and planning manifests in processes of their own.

What a client sends is never parsed in the daemon's process: each question goes to a process that answers it
and ends. Its seconds and its memory are bounded, a user has one at a time, and it is killed when its client
leaves. What goes in and comes out is plain data (`dcd.planner.tasks`): a manifest's text, the paths of
captured files and settings go in; plans, diagnostics and errors come out. The daemon's side is `Planner`;
`python -m dcd.planner` is the other side.
"""

from dcd.planner.client import Planner, Planning
from dcd.planner.tasks import (
    CHECK,
    EXTERNAL,
    FIND,
    MIGRATE,
    NEEDS,
    PLAN,
    PREVIEW,
    WITHHOLD,
    Captured,
    Manifest,
    OfBuild,
    Rules,
    Task,
)

__all__ = [
    "CHECK",
    "EXTERNAL",
    "FIND",
    "MIGRATE",
    "NEEDS",
    "PLAN",
    "PREVIEW",
    "WITHHOLD",
    "Captured",
    "Manifest",
    "OfBuild",
    "Planner",
    "Planning",
    "Rules",
    "Task",
]
