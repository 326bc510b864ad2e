"""`dcctl df`: show the use of space in the state directory.

Show the space used by the layers, artifacts and logs of each build, and by the rest of the state
directory. A layer is counted for the build that created it; it is pinned while a build that has not
ended needs it. WORK is the space of the workspaces of running attempts and of the attempt that
failed a build. An artifact that shares its blocks with a layer is counted in both.
"""

import argparse

from cli.client import Json, request
from cli.text import print_json, print_table, printable, size


def run(args: argparse.Namespace) -> None:
    """Print a table of builds, then the sums."""
    usage = request(args.socket, "GET", "/v1/df")
    if args.json:
        print_json(usage)
        return
    if usage["builds"]:
        header = ("BUILD", "NAME", "STATE", "LAYERS", "SIZE", "PINNED", "WORK", "ARTIFACTS", "LOGS")
        rows = [_row(item) for item in usage["builds"]]
        print_table(header, rows, right=range(3, 9))
        print()
    pinned = f"layers, of which {size(usage['pinned_bytes'])} pinned"
    kinds = (
        ("layer_bytes", pinned + _bounds(usage, "layers_max_bytes")),
        ("retired_bytes", "layers of a back end that is not in use (`dcctl gc` removes them)"),
        ("workspace_bytes", "workspaces of attempts and shells"),
        ("artifact_bytes", "artifacts"),
        ("log_bytes", "logs"),
        ("blob_bytes", "captured inputs"),
        ("package_bytes", _packages(usage) + _bounds(usage, "packages_max_bytes")),
        ("event_log_bytes", "event log"),
    )
    used = [(size(usage[kind]), by) for kind, by in kinds if usage[kind] or kind != "retired_bytes"]
    print_table(("USED", "BY"), used, right=(0,))
    where = printable(usage["state_dir"])
    print(f"\n{size(usage['free_bytes'])} of {size(usage['total_bytes'])} free in {where}")


def _packages(usage: Json) -> str:
    kept = usage["captured_bytes"]
    return "downloaded packages" + (f", of which builds keep {size(kept)}" if kept else "")


def _bounds(usage: Json, setting: str) -> str:
    return f", at most {size(usage[setting])} ({setting})" if usage[setting] else ""


def _row(item: Json) -> tuple[str, ...]:
    kinds = ("layer_bytes", "pinned_bytes", "workspace_bytes", "artifact_bytes", "log_bytes")
    sizes = (size(item[kind]) if item[kind] else "" for kind in kinds)
    return (item["build"], item["name"], item["state"], str(item["layers"] or ""), *sizes)
