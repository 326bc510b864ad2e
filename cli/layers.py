"""Verifying the daemon's layers, one request for each, so that no request takes long."""

import sys

from cli.client import ClientError, Json, request
from cli.exit_codes import ExitCode
from cli.text import count, print_json, print_table, printable, size

LONGEST_SECONDS = 24 * 3600.0
"""The time limit for reading one layer."""

_NOTES = {
    "unrecorded": "made by an earlier version of dcd, without a manifest: cannot be verified",
    "stale": "not used: a layer below it is damaged, was lost or made again",
    "removed": "removed meanwhile",
}


def verify_layers(socket: str, build: str, *, as_json: bool) -> int:
    """Verify all layers, or with `build` those of a build; print the results. Returns the exit code."""
    listed = request(socket, "GET", "/v1/layers", query={"build": build or None})
    results = []
    for number, layer in enumerate(listed["layers"], 1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(listed['layers'])}", end="", file=sys.stderr, flush=True)
        results.append(_verified(socket, layer))
    if sys.stderr.isatty() and results:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    results = _settled(results, socket, build)
    damaged = sum(1 for each in results if each["state"] == "damaged")
    if as_json:
        print_json({"layers": results, "missing": listed["missing"], "ok": not damaged})
    else:
        _print(results, listed["missing"], damaged)
    return ExitCode.DAMAGED if damaged else ExitCode.OK


def _verified(socket: str, layer: Json) -> Json:
    """The layer with the state that the check finds."""
    if layer["state"] == "valid":
        try:
            path = f"/v1/layers/{layer['key']}/verify"
            found = request(socket, "POST", path, timeout_seconds=LONGEST_SECONDS)
        except ClientError as error:
            if error.kind != "not-found":
                raise
            found = {"state": "removed", "damage": ""}
        layer = {**layer, "state": found["state"], "damage": found["damage"]}
    return layer


def _settled(results: list[Json], socket: str, build: str) -> list[Json]:
    """The results: those that stand on a layer found damaged differ from removed ones."""
    if not any(each["state"] == "removed" for each in results):
        return results
    listed = request(socket, "GET", "/v1/layers", query={"build": build or None})
    now = {each["key"]: each["state"] for each in listed["layers"]}
    return [
        {**each, "state": now[each["key"]]}
        if each["state"] == "removed" and now.get(each["key"], "valid") != "valid"
        else each
        for each in results
    ]


def _print(results: list[Json], missing: int, damaged: int) -> None:
    rows = [
        (
            each["key"][:12],
            each["build"],
            each["checkpoint"],
            size(each["size_bytes"]),
            each["state"],
            each["damage"] or _NOTES.get(each["state"], ""),
        )
        for each in results
    ]
    if rows:
        header = ("LAYER", "BUILD", "CHECKPOINT", "SIZE", "STATE", "FOUND")
        print_table(header, rows, right=(3,), wrapped=True)
        print()
    if missing:
        print(f"{count(missing, 'layer')} of the build were removed.")
    found = f"{damaged} damaged" if damaged else "none damaged"
    print(printable(f"{count(len(results), 'layer')}, {found}"))
