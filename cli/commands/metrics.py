"""`dcctl metrics`: print the daemon's metrics for Prometheus.

Print the daemon's metrics in Prometheus' text format: builds by state, waits, durations of
checkpoints, reuse, sizes, requests. Prometheus does not scrape Unix sockets: use a timer that
writes this into a file for the textfile collector of node_exporter. docs/reference/metrics.md lists
the metrics.
"""

import argparse

from cli.client import read
from cli.text import print_json, print_text


def run(args: argparse.Namespace) -> None:
    """Print the text; with --json an object with `text`."""
    text = b"".join(read(args.socket, "/metrics")).decode()
    if args.json:
        print_json({"text": text})
    else:
        print_text(text.rstrip("\n"))
