"""(f) How long other clients wait for `status` while some ask too much of the daemon."""

import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import abuse
from benchmarks.daemon import Daemon, daemon
from benchmarks.figure import Figure
from benchmarks.rounds import Rounds
from cli import client

MOST_MEDIAN_SECONDS = 0.1
SECONDS = 10.0
FOLLOWERS = 200
SUBMISSIONS = 1000
PAUSE_SECONDS = 0.02
"""Between two requests for the status."""

MANIFEST = """<dc><distro name="{name}"><execution><checkpoint name="one"
 mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"><args>{line}</args></checkpoint>
</execution></distro></dc>"""

CHECKPOINT = """<checkpoint name="c{number}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>true</args><kwargs><arg name="chroot">true</arg></kwargs>
</checkpoint>"""

PROCESSES, EACH = 4, 8
"""So many processes post large manifests, each over so many connections."""

NOISY = "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo line $i; sleep 0.02; done"


def load(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """Each kind of abuse in turn, ten seconds a round, with the status of a running build asked for by
    another process."""
    with daemon(scratch / "load") as running:
        build = _submit(running, "noisy", NOISY)
        events, status = f"/v1/builds/{build}/events", f"/v1/builds/{build}"
        kinds: dict[str, tuple[object, ...]] = {
            f"{FOLLOWERS} followers": ("follow", "--connections", FOLLOWERS, "--path", events),
            "a flood over one connection": ("flood", "--path", status),
            "a flood over 200 connections": ("flood", "--connections", 200, "--path", status),
            "50 clients that never read": (
                "deaf",
                "--connections",
                50,
                "--path",
                "/v1/openapi.json",
            ),
            "100 clients that send a byte a second": ("drip", "--connections", 100),
            "4 bodies of a gigabyte": ("body", "--connections", 4, "--path", "/v1/validate"),
        }
        yield _figure("nobody", [s for _ in range(rounds.most) for s in _asked(running, status)])
        for name, arguments in kinds.items():
            waits: list[float] = []
            answers = 0
            for _ in range(rounds.most):
                with _abusing(running, *arguments) as outcome:
                    waits += _asked(running, status)
                answers += sum(outcome["statuses"].values())
            yield _figure(name, waits, f"{answers / rounds.most / SECONDS:,.0f} answers a second")
        for name, (path, body) in _large(scratch).items():
            waits = []
            statuses: Counter[str] = Counter()
            for _ in range(rounds.most):
                with ExitStack() as posting:
                    options = ("--connections", EACH, "--path", path, "--body", body)
                    outcomes = [
                        posting.enter_context(_abusing(running, "post", *options))
                        for _ in range(PROCESSES)
                    ]
                    waits += _asked(running, status)
                for outcome in outcomes:
                    statuses.update(outcome["statuses"])
            answered = ", ".join(f"{count} answers {each}" for each, count in statuses.items())
            yield _figure(name, waits, answered or "no answer in time")
        yield _figure(f"{SUBMISSIONS:,} submissions", _submitting(running, status))
        peak = _peak_bytes(running)
        yield Figure("the daemon's memory at its peak", "MiB", (peak / 2**20,))


def _large(scratch: Path) -> dict[str, tuple[str, Path]]:
    """Manifests that take long to read or plan, most of them legal: what they are, where they are posted
    to, and the file of the request's body."""
    steps = "".join(CHECKPOINT.format(number=number) for number in range(400))
    names = "".join(f"<name>package-{number}</name>" for number in range(20_000))
    listed = f'<software_data action="install">{names}</software_data>'
    software = f'<software name="t" type="DEB">{listed}</software>'
    transfer = '<checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>'
    shell = '<dc><distro name="large">{}<execution>{}</execution></distro></dc>'
    texts = {
        "plans of 400 checkpoints": ("/v1/plan", shell.format("", steps)),
        "validations of 20,000 packages": ("/v1/validate", shell.format(software, transfer)),
        "validations of 90,000 unknown elements": ("/v1/validate", f"<dc>{'<a/>' * 90_000}</dc>"),
    }
    found = {}
    for number, (name, (path, text)) in enumerate(texts.items()):
        file = scratch / f"large-{number}.json"
        file.write_text(json.dumps({"manifest": {"path": "/large.xml", "text": text}}))
        found[name] = (path, file)
    return found


def _figure(during: str, waits: list[float], note: str = "") -> Figure:
    return Figure(f"status during {during}", "s", tuple(waits), most=MOST_MEDIAN_SECONDS, note=note)


def _submit(running: Daemon, name: str, line: str) -> str:
    manifest = {"path": f"/{name}.xml", "text": MANIFEST.format(name=name, line=line)}
    answer = client.request(str(running.socket), "POST", "/v1/builds", body={"manifest": manifest})
    return str(answer["id"])


def _asked(
    running: Daemon, path: str, enough: Callable[[float], bool] = lambda spent: spent > SECONDS
) -> list[float]:
    """Ask for the path until it is enough; the seconds that each answer took."""
    waits, began = [], time.monotonic()
    while not enough(time.monotonic() - began):
        asked = time.monotonic()
        client.request(str(running.socket), "GET", path)
        waits.append(time.monotonic() - asked)
        time.sleep(PAUSE_SECONDS)
    return waits


@contextmanager
def _abusing(running: Daemon, kind: object, *options: object) -> Iterator[dict[str, Any]]:
    """Abuse the daemon inside the context; what the abusers saw is there afterwards."""
    command = [sys.executable, abuse.__file__, kind, running.socket, "--seconds", 4 * SECONDS]
    process = subprocess.Popen(
        [*map(str, command), *map(str, options)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    outcome: dict[str, Any] = {}
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"benchmarks/abuse.py {kind} did not start")
        yield outcome
        process.terminate()
        outcome.update(json.loads(process.stdout.read()))
    finally:
        process.kill()
        process.wait()


def _submitting(running: Daemon, path: str) -> list[float]:
    """Seconds that each status took while another process submitted builds."""
    submitter = multiprocessing.Process(target=_submissions, args=(running,))
    submitter.start()
    waits = _asked(running, path, lambda _: not submitter.is_alive())
    submitter.join()
    if submitter.exitcode:
        raise RuntimeError("not all builds could be submitted")
    return waits


def _submissions(running: Daemon) -> None:
    for number in range(SUBMISSIONS):
        _submit(running, f"build{number % 10}", "sleep 1000")


def _peak_bytes(running: Daemon) -> int:
    process = (running.state_dir / "lock").read_text()
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024
