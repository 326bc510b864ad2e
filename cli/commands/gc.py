"""`dcctl gc`: remove layers, captured inputs and packages that no build needs.

Remove layers that no build names any more, layers of unused back ends, captured inputs that only
removed and cancelled builds name, and the remains of an interrupted `rm`. With --max-bytes, also remove
layers, least recently used first, until the rest fits into that size, and downloaded packages in
the same way. Layers of builds that have not ended, artifacts and logs are never removed. A removed
layer that is needed later is built again, a removed package downloaded again. `layers_max_bytes` and
`packages_max_bytes` in the daemon's configuration apply such limits whenever a build ends.
Needs the role administer.
"""

import argparse
import re

from cli.client import request
from cli.text import count, print_json, print_table, printable, size

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-bytes",
        metavar="SIZE",
        type=_bytes,
        help="size limit of all layers, and of all packages: bytes, or with a unit K, M, G or T; 0: "
        "remove all that no unfinished build needs",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")


def run(args: argparse.Namespace) -> None:
    """Collect; print every layer and the sum."""
    body = {"max_bytes": args.max_bytes, "dry_run": args.dry_run}
    answer = request(args.socket, "POST", "/v1/gc", body=body)
    if args.json:
        print_json(answer)
        return
    layers = answer["layers"]
    if layers:
        rows = [
            (item["key"][:12], item["build"], item["checkpoint"], size(item["size_bytes"]), item["reason"])
            for item in layers
        ]  # fmt: skip
        print_table(("LAYER", "BUILD", "CHECKPOINT", "SIZE", "REASON"), rows, right=(3,))
        print()
    would = "would remove" if args.dry_run else "removed"
    inputs = count(len(answer["blobs"]), "captured input")
    packages = count(answer["packages"], "package")
    print(
        f"{would} {count(len(layers), 'layer')}, {inputs}, {packages}: "
        f"{size(answer['freed_bytes'])}; the remaining layers use {size(answer['kept_bytes'])}"
    )
    if answer["builds"]:
        print(f"{would} the remains of removed builds: {printable(', '.join(answer['builds']))}")


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(i?B)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500000000 or 20G")
    return int(found[1]) * UNITS[found[2]]
