"""A daemon with a signing key: what it signs, and who cannot read the key."""

import json
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from dcd.signing.new import new_key

pytestmark = [pytest.mark.root, pytest.mark.daemon]

SEARCH = """
tell() { printf 'tell%s\n' " $*"; }
cat KEY && tell read
for place in KEY /proc/1/root/KEY /proc/*/root/KEY /proc/*/fd/* /proc/*/environ; do
    timeout 2 grep -a -q -s -D skip -F -e MARK $place && tell found $place
done
for file in $(find / -path /proc -prune -o -path /sys -prune -o -path /usr -prune -o -name key.pem -print); do
    grep -a -q -s -F -e MARK $file && tell found $file
done
for device in /dev/*; do test -b $device && tell device $device; done
mknod ./disk b 8 0 && head -c 1 ./disk && tell disk
rm -f ./disk
mount -t tmpfs none /mnt && tell mounted
umount KEY && tell uncovered
true
"""

SCRIPT = """<dc><distro name="{name}"><execution><checkpoint name="search"
 mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
{given}</checkpoint></execution></distro></dc>"""


@pytest.fixture
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    new_key(path)
    return path


@pytest.fixture
def signing(cold_daemon: Any, key: Path) -> Any:
    """A running daemon that signs."""
    cold_daemon.settings["signing_key"] = str(key)
    cold_daemon.settings["builder_id"] = "https://builds.example.org/"
    cold_daemon.settings["host_code"] = ["root"]
    daemon = cold_daemon.start()
    yield daemon
    assert daemon.stop() == 0


@pytest.mark.usefixtures("really_started")
def test_worker_with_all_rights_of_a_manifest_and_the_main_process_cannot_read_the_key(
    signing: Any, tmp_path: Path, key: Path
) -> None:
    mark = key.read_text().splitlines()[1][20:40]
    # The script itself must not hold what it looks for.
    script = SEARCH.replace("MARK", f"{mark[:10]}''{mark[10:]}").replace("KEY", str(key))
    manifest = tmp_path / "search.xml"
    (tmp_path / "search.sh").write_text(script)
    (tmp_path / "out").mkdir()
    rights = "".join(
        f'<arg name="{name}">{value}</arg>'
        for name, value in (("script", "search.sh"), ("network", "true"))
    )
    rights += f'<arglist name="writes"><argitem>{tmp_path}/out</argitem></arglist>'
    manifest.write_text(SCRIPT.format(name="search", given=f"<kwargs>{rights}</kwargs>"))
    build = signing.submit(manifest)
    assert signing.wait(build)["state"] == "completed"
    log = signing.ctl("logs", build, "search")
    assert "tell " not in log.replace("tell%s", ""), log

    status = Path(f"/proc/{signing.process.pid}/status").read_text()
    (uid,) = [line.split()[1] for line in status.splitlines() if line.startswith("Uid:")]
    assert int(uid) != 0
    read = subprocess.run(
        ["setpriv", "--reuid", uid, "--clear-groups", "cat", key], capture_output=True
    )
    assert read.returncode != 0
    opened = [str(fd.readlink()) for fd in Path(f"/proc/{signing.process.pid}/fd").iterdir()]
    assert str(key) not in opened


RIGHTS = {
    "capabilities": "SYS_ADMIN",
    "devices": "*",
    "writes": "KEY",
}


@pytest.mark.parametrize("right", [*RIGHTS, "DAC_READ_SEARCH", "SYS_PTRACE"])
def test_right_that_leads_to_the_key_is_refused(
    signing: Any, tmp_path: Path, key: Path, right: str
) -> None:
    name = right if right in RIGHTS else "capabilities"
    value = RIGHTS.get(right, right).replace("KEY", str(key))
    given = f'<args>true</args><kwargs><arglist name="{name}"><argitem>{value}</argitem></arglist></kwargs>'
    manifest = tmp_path / "wanted.xml"
    manifest.write_text(SCRIPT.format(name="wanted", given=given))
    build = signing.submit(manifest)
    status = signing.wait(build)
    assert "signing key" in json.dumps(status["error"])


def test_all_statements_are_signed_and_listed(signing: Any, write_manifest: Any) -> None:
    build = signing.submit(write_manifest(("one", "true")))
    signing.wait(build, "completed")
    found = {each["name"]: each for each in signing.json("artifacts", build)}
    assert set(found) == {
        *("small.xml", "SHA256SUMS", "SHA256SUMS.evidence", "SHA256SUMS.sig"),
        *("small.provenance.json", "small.provenance.dsse.json", "small.sigstore.json"),
    }
    signing.ctl("artifacts", build, "--verify")
    said = Path(found["small.provenance.json"]["path"]).read_text()
    assert signing.ctl("provenance", build) == said
    envelope = json.loads(Path(found["small.provenance.dsse.json"]["path"]).read_text())
    assert b64decode(envelope["payload"]).decode() == said
    statement = json.loads(said)
    run = statement["predicate"]["runDetails"]
    assert run["builder"]["id"] == "https://builds.example.org/"
    listed = Path(found["SHA256SUMS.evidence"]["path"]).read_text()
    assert "small.provenance.dsse.json" in listed


def test_build_whose_key_has_become_unsafe_fails_until_it_is_repaired(
    signing: Any, key: Path, write_manifest: Any
) -> None:
    key.chmod(0o644)
    build = signing.submit(write_manifest(("one", "true")))
    status = signing.wait(build)
    assert "chmod 0600" in status["error"]["resolution"]
    key.chmod(0o600)
    signing.ctl("retry", build)
    signing.wait(build, "completed")


@pytest.mark.parametrize("after_seconds", [0.0, 0.15, 0.4])
def test_killed_while_it_delivers_it_delivers_the_same_statement(
    cold_daemon: Any, key: Path, write_manifest: Any, after_seconds: float
) -> None:
    """Wherever the kill comes, the last daemon's files are those of the events."""
    cold_daemon.settings["signing_key"] = str(key)
    cold_daemon.settings["host_code"] = ["root"]
    daemon = cold_daemon.start()
    build = daemon.submit(write_manifest(("one", "true")))
    daemon.wait_for_event(build, "CheckpointCompleted")
    time.sleep(after_seconds)
    daemon.kill()
    daemon.start()
    daemon.wait(build, "completed")
    daemon.ctl("artifacts", build, "--verify")
    found = {each["name"]: Path(each["path"]) for each in daemon.json("artifacts", build)}
    said = found["small.provenance.json"].read_text()
    assert said == daemon.ctl("provenance", build)
    envelope = json.loads(found["small.provenance.dsse.json"].read_text())
    assert b64decode(envelope["payload"]).decode() == said
    assert daemon.stop() == 0
