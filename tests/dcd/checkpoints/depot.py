"""A stand-in for pkg(1) that records how it is called and answers as the real one was seen to (exit statuses,
phases, what a dead origin does), with repositories that are real directories; and elements for it."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dcd.checkpoints.interface import Context
from dcd.checkpoints.transfer.ips import TransferIPS
from dcd.manifest.diagnostics import refuse
from store.host.tools import TOOL_PATH
from store.packages import Lent

STAND_IN = """#!{python} -IS
import getopt, gzip, hashlib, json, os, pathlib, sys, time
calls = pathlib.Path({calls!r})
with calls.open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
opts, rest = getopt.getopt(sys.argv[1:], "R:")
root = dict(opts).get("-R")
command, words = rest[0], rest[1:]
LONG = ["full", "partial", "zone", "facet=", "variant=", "set-property=", "sticky", "non-sticky",
        "no-refresh", "accept", "no-index", "reject="]
options, operands = [], words
if command != "set-property":
    options, operands = getopt.gnu_getopt(words, "g:m:p:k:c:HF:vt:o:", LONG)

trouble = pathlib.Path({calls!r} + "-trouble")
if trouble.exists() and command in ("install", "set-publisher", "verify"):
    pending = json.loads(trouble.read_text())
    if pending["command"] == command and pending["times"] != 0:
        trouble.write_text(json.dumps({{**pending, "times": pending["times"] - 1}}))
        print("Planning: Fetching manifests: 0/2  0% complete")
        print(f"pkg {{command}}: {{pending['text']}}", file=sys.stderr)
        sys.exit(1)

def fail(status, text):
    print(f"pkg {{command}}: {{text}}", file=sys.stderr)
    sys.exit(status)

if command == "image-create":
    root = operands[0]
state_file = pathlib.Path(root) / "var/pkg/stand-in.json"
if command == "image-create":
    state_file.parent.mkdir(parents=True)
    state = {{"publishers": {{}}, "installed": {{}}, "avoided": []}}
elif not state_file.exists():
    fail(1, f"{{root}} is not an image")
else:
    state = json.loads(state_file.read_text())

def packages(origin):
    if origin.startswith("http:"):
        from urllib.request import urlopen
        return urlopen(f"{{origin}}packages").read().decode().split()
    path = pathlib.Path(origin) / "packages"
    if not path.exists():
        fail(1, f"Unable to contact valid package repository: {{origin}}")
    return path.read_text().split()

def digest(package):
    return hashlib.sha1(f"content of {{package}}".encode()).hexdigest()

def fetch(package, publisher):
    # As pkg: from the cache if the file there is whole, which is checked; else it is fetched into it.
    name = digest(package)
    root = os.environ.get("PKG_CACHEROOT", f"{{root_of_image}}/var/pkg/publisher")
    place = pathlib.Path(root, publisher, "file", name[:2], name)
    if place.exists():
        if hashlib.sha1(gzip.decompress(place.read_bytes())).hexdigest() == name:
            print(f"cached: {{package}}")
            return
        place.unlink()
    print(f"fetched: {{package}}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(gzip.compress(f"content of {{package}}".encode(), mtime=0))

status = 0
root_of_image = root
if command == "set-publisher":
    origins = [value for option, value in options if option in ("-g", "-p")]
    if ("--no-refresh", "") not in options:
        for origin in origins:
            packages(origin)
    name = operands[0] if operands else pathlib.Path(origins[0]).name
    state["publishers"][name] = origins
elif command == "unset-publisher":
    for name in operands:
        del state["publishers"][name]
elif command == "publisher":
    for name, origins in state["publishers"].items():
        for origin in origins:
            print("\\t".join([name, "true", "false", "true", "origin", "online", origin, "-"]))
elif command == "install":
    known = {{p: name for name, origins in state["publishers"].items() for o in origins for p in packages(o)}}
    unknown = [p for p in operands if p not in known]
    if unknown:
        print("Planning: Solver setup ... Do")
        fail(1, "The following pattern(s) did not match any allowable packages.  Try\\nusing a different"
                " matching pattern, or refreshing publisher information:\\n\\n\\t"
                + "\\n\\t".join(unknown) + "\\n")
    if ("--accept", "") not in options:
        fail(6, "licence not accepted")
    new = [p for p in operands if p not in state["installed"]]
    print("Startup: Refreshing catalog 'one' ... Done")
    print("Planning: Solver setup ... Done (0.1s)")
    print("Download:  50/100 items   1.0/2.0MB  50% complete (1.0M/s)")
    print("Actions: 10/10 actions (Installing new actions)")
    print("Finalize: Updating image state ... Done")
    for package in new:
        fetch(package, known[package])
        while pathlib.Path({calls!r} + "-hang").exists():
            time.sleep(0.05)
        if pathlib.Path({calls!r} + "-cut").exists():
            fail(1, "Framework error: code: E_COULDNT_CONNECT (7) reason: x")
        state["installed"][package] = known[package]
        (pathlib.Path(root) / package).parent.mkdir(parents=True, exist_ok=True)
        (pathlib.Path(root) / package).write_text("content")
        (pathlib.Path(root) / package).chmod(0o755)
        place = state_file.parent / "publisher" / known[package] / "pkg" / package
        place.mkdir(parents=True, exist_ok=True)
        (place / "1.0%2C5.11-1%3A20260101T000000Z").write_text(
            f"set name=pkg.summary value={{package}}\\n" + {{
                "licensed": 'license 0a1b license="A licence" must-accept=true must-display=true\\n',
                "licensed2": "license 0a1c license='It''s' must-accept=True\\n"
                             "license 0a1d license=free must-accept=false\\n",
            }}.get(package, "license 0a1e license=CDDL\\n"))
    status = 0 if new else 4
elif command == "uninstall":
    for package in operands:
        if package not in state["installed"]:
            fail(1, "The following pattern(s) did not match any packages installed:\\n\\n\\t" + package)
        del state["installed"][package]
        (pathlib.Path(root) / package).unlink()
elif command == "avoid":
    state["avoided"] += operands
elif command == "contents":
    for package in state["installed"]:
        print(f"{{digest(package)}} {{'4755' if package == 'su' else '0644'}}  {{package}}")
    status = 0 if state["installed"] else 1
elif command == "list":
    for package, publisher in state["installed"].items():
        print(f"pkg://{{publisher}}/{{package}}@1.0-1:20260101T000000Z        i--")
    status = 0 if state["installed"] else 1
state_file.write_text(json.dumps(state))
sections = [
    f"[authority_{{name}}]\\nprefix = {{name}}\\nuuid = 6ad2f2d6-1b1c-11ef-8d3c-{{os.urandom(6).hex()}}\\n"
    f"last_uuid = Thu Jan  1 00:00:00 2026\\norigins = {{origins}}\\nmirrors = []\\n"
    f"origin_info = {{[dict(uri=o, proxy='') for o in origins]}}\\n"
    "ssl_key = /x/ssl/1\\nssl_cert = /x/ssl/2\\n"
    for name, origins in state["publishers"].items()
]
keys = state_file.parent / "ssl"
keys.mkdir(exist_ok=True)
(keys / "1").write_text("a key of the host")
(state_file.parent / "pkg5.image").write_text("[image]\\nversion = 3\\n\\n" + "\\n".join(sections))
sys.exit(status)
"""


def write_stand_in(script: Path, calls: Path) -> None:
    """Make the stand-in, with the file of its calls."""
    script.write_text(STAND_IN.format(python=sys.executable, calls=str(calls)))
    script.chmod(0o755)


class Depot:
    """The stand-in, what it was called with, and repositories of packages."""

    def __init__(self, directory: Path, bench: Any) -> None:
        self.directory = directory
        self.bench = bench
        self.calls_file = directory / "calls"
        (directory / "bin").mkdir(parents=True)
        write_stand_in(directory / "bin/pkg", self.calls_file)

    def publish(self, publisher: str, *packages: str, repository: str = "") -> Path:
        """Make or change a repository (named for its publisher) that has these packages."""
        path = self.directory / (repository or publisher)
        catalog = path / "publisher" / publisher / "catalog"
        catalog.mkdir(parents=True, exist_ok=True)
        (path / "packages").write_text(" ".join(packages))
        signature = hashlib.sha1(" ".join(packages).encode()).hexdigest()
        attributes = {"parts": {"catalog.base.C": {"signature-sha-1": signature}}}
        (catalog / "catalog.attrs").write_text(json.dumps(attributes))
        return path

    def cut(self, off: bool = True) -> None:
        """Have each install fail after its first file, or no more."""
        flag = Path(f"{self.calls_file}-cut")
        flag.touch() if off else flag.unlink()

    def execute(
        self, checkpoint: TransferIPS, *elements: str, packages: Lent | None = None
    ) -> Context:
        """As the engine would, with the stand-in on PATH."""
        doc = self.bench.doc(*elements)
        refuse(checkpoint.check(doc))
        environment = {"PATH": f"{self.directory}/bin:{TOOL_PATH}"}
        external = checkpoint.external_state(doc)
        context = self.bench.context(doc, external=external, environment=environment)
        context = replace(context, packages=packages)
        checkpoint.execute(context)
        return context  # type: ignore[no-any-return]

    def stumble(self, command: str, text: str, times: int) -> None:
        """Have the next calls of a subcommand fail with that text (-1: all of them)."""
        trouble = {"command": command, "text": text, "times": times}
        Path(f"{self.calls_file}-trouble").write_text(json.dumps(trouble))

    @property
    def calls(self) -> list[str]:
        """Each call as a line; the image's root, and the option for it, are left out."""
        root = str(self.bench.image)
        lines = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [" ".join(w for w in words if w not in ("-R", root)) for words in lines]


def install(*names: str, action: str = "install", reject: str = "") -> str:
    listed = "".join(f"<name>{name}</name>" for name in names)
    rejected = f"<reject>{reject}</reject>" if reject else ""
    return f'<software_data action="{action}">{listed}{rejected}</software_data>'


def publisher(origin: object, name: str = "one", more: str = "", attributes: str = "") -> str:
    named = f'name="{name}"' if name else ""
    return f'<publisher {named} {attributes}><origin name="{origin}"/>{more}</publisher>'


def software(data: str, publishers: str = "", image: str = "<image/>", name: str = "t") -> str:
    source = f"<source>{publishers}</source>" if publishers else ""
    return (
        f'<software name="{name}" type="IPS"><destination>{image}</destination>{source}\n'
        f"{data}</software>"
    )
