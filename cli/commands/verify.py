"""`dcctl verify`: check a received image against its provenance, or the layers of the daemon.

Check files against the signed provenance of the build that made them: signature, digest and builder. No
daemon is needed, only openssl. The provenance is found beside the file, or given by --provenance; the signed
list SHA256SUMS beside it is checked too. It succeeds only when a signature by the key that you give was
checked, and then prints what was proved and what not. Exit codes: 7 a file is missing, 20 the key cannot be
used, 21 altered, 22 signed by another key, 23 made for another file, 24 not proved (no provenance, no
signature, no key), 25 another builder.

With the file SHA256SUMS, check its signatures SHA256SUMS.sig (by --key) and SHA256SUMS.gpg (by --keyring),
and all files that it lists.

With --layers, have the daemon read its layers, all or those with which a build was made, and compare
them with the manifests that their checkpoints left. A damaged layer is never used again; exit 30 when
there is one.
"""

import argparse
from pathlib import Path

from cli.client import ClientError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="a file of the image")
    parser.add_argument(
        "--layers",
        metavar="BUILD",
        nargs="?",
        const="",
        help="verify the daemon's layers instead: all, or those of a build",
    )
    parser.add_argument(
        "--provenance",
        metavar="FILE",
        type=Path,
        help="the provenance (default: NAME.sigstore.json or NAME.provenance.*json beside FILE), or the "
        "verdict of a rebuilder of FILE (NAME.rebuild.dsse.json)",
    )
    parser.add_argument(
        "--key", metavar="PEM", type=Path, help="the publisher's public key, in PEM"
    )
    parser.add_argument(
        "--keyring",
        metavar="FILE",
        type=Path,
        help="the publisher's keyring of gpg, for SHA256SUMS.gpg; gpgv checks it",
    )
    parser.add_argument(
        "--ignore-missing",
        action="store_true",
        help="files that SHA256SUMS lists may be missing, as for sha256sum",
    )
    parser.add_argument(
        "--builder", metavar="URI", help="the id that the builder must have in the provenance"
    )


def run(args: argparse.Namespace) -> int:
    """Check each file; the first problem ends the command. Or check the layers."""
    if args.layers is not None and not args.files:
        from cli.layers import verify_layers

        return verify_layers(args.socket, args.layers, as_json=args.json)
    if args.layers is not None or not args.files:
        raise ClientError("usage", "name the files to verify, or --layers with at most one build")
    from cli.verification import verify_files  # starts openssl, which other commands do not need

    return verify_files(args)
