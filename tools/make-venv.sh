#!/bin/sh
# Makes the virtual environment $2 with the Python $1; installs python3-venv where Debian split it off.
set -eu
python=$1 venv=$2
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends python3 python3-venv
fi
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
