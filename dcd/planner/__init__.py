"""Reading and planning manifests in separate processes.

The daemon's process never parses client data: a separate process answers each question and exits. Its
time and memory are limited, a user has one at a time, and it is killed when its client disconnects.
Input and output are plain data (`dcd.planner.tasks`): a manifest's text, the paths of captured files
and settings go in; plans, diagnostics and errors come out. The daemon's side is `Planner`; `python -m
dcd.planner` is the other side.
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
