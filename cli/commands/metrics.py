"""`dcctl metrics`: the daemon's metrics for Prometheus."""

import argparse

from cli.client import read
from cli.exit_codes import ExitCode
from cli.text import print_json, print_text

HELP = "print the daemon's metrics for Prometheus"
DESCRIPTION = (
    "Print the daemon's metrics in Prometheus' text format: builds by state, waits, "
    "durations of checkpoints, reuse, sizes, requests. Prometheus does not scrape Unix "
    "sockets: use a timer that writes this into a file for the textfile collector of "
    "node_exporter. docs/reference/metrics.md lists the metrics."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the text; with --json an object with `text`."""
    text = b"".join(read(args.socket, "/metrics")).decode()
    if args.json:
        print_json({"text": text})
    else:
        print_text(text.rstrip("\n"))
    return ExitCode.OK
