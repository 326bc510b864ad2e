"""`dcctl web`: show builds in a browser.

Serve a page with all builds on 127.0.0.1, until Ctrl-C, and print its address. What the page shows and
does is what this user may see and do with dcctl. The address contains a secret: give it to nobody. From
another machine: ssh -L PORT:127.0.0.1:PORT HOST, then open the address there. Needs the extra dcd[web].
"""

import argparse
import sys
from contextlib import nullcontext
from importlib.util import find_spec

from cli.client import ClientError, request
from cli.text import print_json


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=_port,
        default=0,
        help="the port on 127.0.0.1 (default: 0, a free one)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted; the address is the only line on stdout."""
    if missing := [name for name in ("starlette", "uvicorn", "h11") if find_spec(name) is None]:
        raise ClientError(
            "unprepared",
            "the web page is not installed",
            f"dcctl web needs {', '.join(missing)}",
            "install dcd with its extra: pip install 'dcd[web]'",
        )
    from cli.web.serve import opener, serve

    request(args.socket, "GET", "/v1/whoami")  # a daemon that cannot be reached is an error now

    with opener() if args.open else nullcontext() as open_page:

        def announce(url: str) -> None:
            if args.json:
                print_json({"url": url})
            else:
                print(url)
            sys.stdout.flush()
            print(
                "Ctrl-C ends it. The address contains a secret: give it to nobody.", file=sys.stderr
            )
            if open_page is not None:
                open_page(url)

        serve(args.socket, args.port, announce)


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return number
