"""`dcctl plan`: show which checkpoints of a manifest would run, and why.

Print for each checkpoint of a manifest whether it would run or be reused, and the reason. Nothing
is built. With --matrix there is a plan for each combination of the values; a checkpoint that is the
same in several runs once. A checkpoint that cannot run here, because a tool or the checkpoint itself is
missing, is unavailable; one that depends on an unreachable repository is unknown. In both cases a submit
would be refused.
"""

import argparse
import sys
from collections.abc import Sequence

from cli.capture import send
from cli.client import Json
from cli.commands.options import (
    add_grow,
    add_locked,
    add_manifest,
    add_matrix,
    add_source_date_epoch,
)
from cli.groups import label, matrix_request
from cli.text import (
    build_time,
    count,
    duration,
    print_json,
    print_table,
    print_variances,
    printable,
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    add_matrix(parser)
    add_source_date_epoch(parser)
    add_grow(parser)
    add_locked(parser)


def run(args: argparse.Namespace) -> None:
    """Print the plan or plans; the estimate covers only the checkpoints that would run."""
    plan = send(args.socket, *matrix_request(args, "plan"))
    if args.json:
        print_json(plan)
    elif args.matrix:
        for each in plan["cells"]:
            print(f"{printable(label(each['cell']))}\n")
            _print_plan(each["plan"])
            print()
        _print_sum([each["plan"] for each in plan["cells"]])
    else:
        _print_plan(plan)


def _print_sum(plans: Sequence[Json]) -> None:
    """What all plans come to, in which a checkpoint with the same key runs once."""
    every = [item for plan in plans for item in plan["checkpoints"] if item["action"] == "run"]
    # What has no key yet differs from all others.
    once = {item["key"] or str(number): item for number, item in enumerate(every)}
    seconds = sum(item["estimate_seconds"] for item in once.values())
    number = sum(len(plan["checkpoints"]) for plan in plans)
    print(
        f"{count(len(plans), 'build')}: {len(once)} different of {count(number, 'checkpoint')} to run,"
        f" about {duration(seconds)}"
    )


def _print_plan(plan: Json) -> None:
    """Print the plan of one build."""
    if plan["choice"]:
        print(f"{printable(plan['choice'])}\n")
    total_seconds = 0.0
    rows = []
    for item in plan["checkpoints"]:
        runs = item["action"] == "run"
        total_seconds += item["estimate_seconds"] if runs else 0.0
        estimate = duration(item["estimate_seconds"]) if runs else ""
        rows.append((item["name"], item["action"], estimate, item["reason"]))
    print_table(("CHECKPOINT", "ACTION", "ESTIMATE", "REASON"), rows, right=(2,), wrapped=True)
    running = sum(1 for row in rows if row[1] == "run")
    of_all = f"{running} of {count(len(rows), 'checkpoint')}"
    print(f"\n{printable(plan['name'])}: {of_all} to run, about {duration(total_seconds)}")
    if all(item["key"] for item in plan["checkpoints"]):
        print(f"files dated {build_time(plan)}")
    print_variances(plan["checkpoints"], sys.stdout)
    if any(item.get("grown_from") for item in plan["checkpoints"]):
        print("it grows from the result of an earlier build: a whole build may differ in its order")
    if unavailable := sum(1 for row in rows if row[1] == "unavailable"):
        print(f"{unavailable} cannot run here, so a submit would be refused")
    if unknown := sum(1 for row in rows if row[1] == "unknown"):
        print(
            f"{unknown} not known, since a repository is unreachable; a submit would be refused now"
        )
