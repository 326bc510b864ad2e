#!/bin/sh
# Builds the image of manifest $1 with a private daemon whose state lives in directory $2.
# An unfinished build of an earlier run is picked up where it stopped; otherwise a new one is submitted.
set -eu
manifest=$1 directory=$2
bin=${VENV:-.venv}/bin
mkdir -p "$directory"
DCD_SOCKET=$(cd "$directory" && pwd)/dcd.sock
export DCD_SOCKET

"$bin/dcd" serve --state-dir "$directory/state" --socket "$DCD_SOCKET" 2>"$directory/daemon.log" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true' EXIT INT TERM

until "$bin/dcctl" version >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || { cat "$directory/daemon.log" >&2; exit 1; }
    sleep 0.2
done

unfinished=$("$bin/dcctl" list --json --limit 1 \
    --state queued --state running --state pausing --state paused --state failed |
    "$bin/python" -c 'import json, sys; print(*(b["id"] for b in json.load(sys.stdin)))')
if [ -n "$unfinished" ]; then
    echo "going on with build $unfinished"
    "$bin/dcctl" resume "$unfinished" >/dev/null 2>&1 || true
    "$bin/dcctl" follow "$unfinished"
    build=$unfinished
else
    build=$("$bin/dcctl" submit "$manifest")
    "$bin/dcctl" follow "$build"
fi
"$bin/dcctl" artifacts "$build" --verify
