#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Method script of svc:/application/dcd: METHOD COMMAND [CONTRACT]. smf_method(7) has the exit codes.
# POSIX shell and no smf_include.sh, so that it is tested where there is no SMF. The daemon's process is
# found through the file that the start method leaves, and believed only if it is in the contract.

SMF_EXIT_OK=0 SMF_EXIT_ERR_FATAL=95 SMF_EXIT_ERR_NOSMF=99

method=$1 command=$2 contract=${3:-}
pid_file=${DCD_PID_FILE:-/var/run/dcd.pid}

if [ -z "${SMF_FMRI:-}" ]; then
    echo "svc-dcd: not started by SMF" >&2
    exit $SMF_EXIT_ERR_NOSMF
fi

if [ "$method" != start ] && [ -z "$contract" ]; then
    echo "svc-dcd: $method needs the contract" >&2
    exit $SMF_EXIT_ERR_FATAL
fi

# setting NAME: a setting's value, as svcprop prints it: without blanks or shell characters, or wrong.
setting() {
    svcprop -p "config/$1" "$SMF_FMRI"
}

# daemon_runs: whether $pid is the daemon of this instance.
daemon_runs() {
    pid=$(cat "$pid_file" 2>/dev/null) && [ -n "$pid" ] || return 1
    pgrep -c "$contract" 2>/dev/null | grep -x "$pid" >/dev/null
}

start() {
    socket=$(setting socket) || exit $SMF_EXIT_ERR_FATAL
    if [ ! -x "$command" ]; then
        echo "svc-dcd: $command is not there; set method/command" >&2
        exit $SMF_EXIT_ERR_FATAL
    fi
    "$command" serve --from-smf &
    pid=$!
    echo "$pid" >"$pid_file" || exit $SMF_EXIT_ERR_FATAL
    # The timeout of the start method bounds this loop.
    until "${command%/*}/dcctl" --socket "$socket" version >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null; then
            wait "$pid"
            code=$?
            # A daemon that ends before it serves has failed, whatever it says.
            [ "$code" -ne 0 ] || code=$SMF_EXIT_ERR_FATAL
            exit "$code"
        fi
        sleep 1
    done
}

# stop: ask the daemon, which lets checkpoints run on for their grace; then end what is left.
stop() {
    grace=$(setting stop_grace_seconds) && force=$(setting cancel_grace_seconds) || grace=60 force=0
    left=$((grace + force + 5))
    if daemon_runs; then
        kill -TERM "$pid"
        while [ "$left" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
            sleep 1
            left=$((left - 1))
        done
    fi
    # pkill has nothing to kill when all went well.
    pkill -KILL -c "$contract" || :
    rm -f "$pid_file"
}

refresh() {
    if ! daemon_runs; then
        echo "svc-dcd: the daemon is not in contract $contract" >&2
        exit $SMF_EXIT_ERR_FATAL
    fi
    kill -HUP "$pid"
}

case $method in
start) start ;;
stop) stop ;;
refresh) refresh ;;
*)
    echo "svc-dcd: unknown method $method" >&2
    exit $SMF_EXIT_ERR_FATAL
    ;;
esac
exit $SMF_EXIT_OK
