"""The live image of the examples, as its users get it: built by a daemon that is killed in every checkpoint,
booted by a plain QEMU as they would boot it, and built again.

The worker's processes are known by the PID namespace that they are in, so that also tools which know
nothing of dcd are seen.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.worker.recover import leftover_workers
from tests.conftest import SETTLED
from tests.system.plain_qemu import console_with
from tests.system.repetition import assert_identical_again, without_boots

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(1500)]

EXAMPLES = Path(__file__).parents[2] / "examples"

IN_THE_MIDDLE = {
    "TransferDEB": "dpkg-deb",
    "DebianBootArchive": "mkinitramfs",
    "SquashfsPkgImgMod": "mksquashfs",
    "CreateISO": "xorriso",
    "VerifyBoot": "qemu-system-x86",
}
"""What runs when a checkpoint of that class is in its middle; of the others it is the worker itself."""

FIRMWARE = "<argitem>bios</argitem><argitem>uefi</argitem>"
LOGIN, INIT_RUNS = "${hostname} login:", "Hostname set to &lt;${hostname}&gt;"
CONSOLE = "console=ttyS0,115200"
"""What the examples boot with, wait for, and tell the kernel. With `loglevel=7` the start of init is seen,
from where on the boots do not differ."""

GONE_SECONDS = 60.0
BOOT_SECONDS = 800.0


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The example, in a directory where it may be changed. Its checkpoint boots it with UEFI only, until its
    init runs from the medium: with BIOS, the tutorial's test boots it as a CD, to its kernel, and this one as
    a stick, to the login."""
    copies = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copies)
    example = copies / "debian-live.xml"
    replace(example, FIRMWARE, "<argitem>uefi</argitem>")
    replace(example, LOGIN, INIT_RUNS)
    replace(example, CONSOLE, f"{CONSOLE} loglevel=7")
    return example


def replace(file: Path, before: str, after: str) -> None:
    """Replace what is there once."""
    assert file.read_text().count(before) == 1
    file.write_text(file.read_text().replace(before, after))


def test_live_image_survives_sigkill_in_every_checkpoint_boots_and_is_reused(
    cold_daemon: Any, manifest: Path, tmp_path: Path
) -> None:
    daemon = cold_daemon.start()
    build = daemon.submit(manifest, "--pause-before", "transfer-deb")
    (submitted, *_) = daemon.events(build)
    planned = submitted["data"]["plan"]["checkpoints"]
    names = [checkpoint["name"] for checkpoint in planned]

    killed: list[str] = []
    for index, (checkpoint, after) in enumerate(zip(planned, [*names[1:], ""], strict=True)):
        name = checkpoint["name"]
        daemon.wait(build, "paused")
        # One that has ended before it was seen to run has the build pause, instead of the next one begin.
        daemon.ctl("resume", build, *(["--pause-before", after] if after else []))
        program = IN_THE_MIDDLE.get(checkpoint["checkpoint_class"])
        namespace = wait_for_middle(daemon, build, index, program)
        if namespace is None:
            assert program is None, f"{name} was not interrupted"
            continue
        daemon.kill()
        wait_until_gone(namespace)
        assert mounts_and_loops(daemon) == []
        daemon.start()
        wait_until(lambda at=index: attempts(daemon, build)[at] == 2, 120, f"{name}, again")
        workspace = f"{build}.{index}.{index + len(killed) + 1}"
        assert list(daemon.state_dir.glob(f"layers/*/.work/{workspace}")) == []
        killed.append(name)
        interrupted = [e for e in daemon.events(build) if e["type"] == "CheckpointInterrupted"]
        assert [(e["data"]["checkpoint"], e["data"]["cause"]) for e in interrupted] == [
            (done, "daemon-died") for done in killed
        ]
        daemon.ctl("events", build, "--verify")
        daemon.wait(build, "paused", "completed", seconds=600)

    status = daemon.wait(build, "completed")
    assert attempts(daemon, build) == [2 if name in killed else 1 for name in names]
    assert of_type(daemon, build, "CheckpointCompleted") == names
    assert daemon.leaks() == []
    daemon.ctl("events", build, "--verify")
    daemon.ctl("artifacts", build, "--verify")
    artifacts = {artifact["name"]: artifact for artifact in status["artifacts"]}
    formats = {artifact["format"] for artifact in status["artifacts"]}
    assert {"iso", "xml", "text", "png"} <= formats
    assert_sums(Path(artifacts["SHA256SUMS"]["path"]))
    iso = Path(artifacts["debian-live.iso"]["path"])

    # The checkpoint has booted it as a CD with UEFI.
    assert_boots_from_a_stick(iso, tmp_path / "plain")
    assert_sbom_lists_what_dpkg_knows(artifacts, iso, tmp_path)
    assert_the_initramfs_mounts_any_medium(iso, tmp_path / "initrd")

    again = daemon.submit(manifest)
    status = daemon.wait(again, "completed")
    assert {c["state"] for c in status["checkpoints"]} == {"reused"}
    assert of_type(daemon, again, "CheckpointStarted") == []
    daemon.ctl("artifacts", again, "--verify")
    assert_identical_again(daemon, without_boots(manifest))
    assert_secure_boot(daemon, manifest)

    text = manifest.read_text()
    changed, count = re.subn(r"(<boot_mods[^>]* title=)\"[^\"]*\"", r'\1"Another title"', text)
    assert count == 1
    manifest.write_text(changed)
    menu = next(i for i, c in enumerate(planned) if c["checkpoint_class"] == "GrubBootMenu")
    proof = next(c["name"] for c in planned if c["checkpoint_class"] == "VerifyBoot")
    other = daemon.submit(manifest, "--pause-before", proof)
    status = daemon.wait(other, "paused", seconds=300)
    assert [c["state"] for c in status["checkpoints"]] == [
        *["reused"] * menu,
        *["completed"] * (len(names) - menu - 2),
        *["pending"] * 2,
    ]
    (new_iso,) = daemon.state_dir.glob(
        f"layers/*/{status['checkpoints'][-3]['key']}/tree/media/*.iso"
    )
    assert "Another title" in boot_menu(new_iso, tmp_path / "new.cfg")
    assert "Another title" not in boot_menu(iso, tmp_path / "old.cfg")
    daemon.ctl("cancel", other)
    daemon.wait(other, "cancelled")
    assert_netboot_kit_starts_from_the_same_packages(daemon, manifest, tmp_path)
    assert daemon.stop() == 0
    assert daemon.leaks() == []


def wait_for_middle(daemon: Any, build: str, index: int, program: str | None) -> int | None:
    """Until the checkpoint's first attempt runs, and `program` in it. Returns its PID namespace; None when it
    has ended before that was seen."""
    # A look at one file is cheap also when it is frequent, as it has to be for checkpoints that take no time.
    checkpoint = daemon.status(build)["checkpoints"][index]["name"]
    log = daemon.state_dir / f"logs/{build}/{checkpoint}.1.log"
    wait_until(log.exists, 300, f"the beginning of {checkpoint}")
    ours = pid_namespace(Path("/proc/self"))
    identity = (daemon.state_dir / "id").read_text().strip()
    prefix = f"{identity}:{build}:{checkpoint}:1"

    def namespace() -> tuple[int | None] | None:
        for worker in leftover_workers(prefix):
            found = pid_namespace(Path(f"/proc/{worker.pid}"))
            if found not in (None, ours) and (program is None or program in in_namespace(found)):
                return (found,)
        return (None,) if daemon.status(build)["state"] in SETTLED else None

    every = 0.05 if program else 0.005
    (found,) = wait_until(namespace, 300, f"{checkpoint} in its middle", every)
    return found


def wait_until_gone(namespace: int) -> None:
    """Until no process is left in a PID namespace."""
    wait_until(lambda: not in_namespace(namespace), GONE_SECONDS, "the end of all processes")


def attempts(daemon: Any, build: str) -> list[int]:
    """How often each checkpoint was begun."""
    return [checkpoint["attempts"] for checkpoint in daemon.status(build)["checkpoints"]]


def wait_until(look: Callable[[], Any], seconds: float, what: str, every: float = 0.005) -> Any:
    """Look, once in so many seconds, until there is something to be seen, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        time.sleep(every)
    return found


def in_namespace(namespace: int) -> list[str]:
    """The names of the processes in a PID namespace."""
    return [name for place, name in processes() if pid_namespace(place) == namespace]


def processes() -> Iterator[tuple[Path, str]]:
    """Every process: its directory in /proc and its name."""
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                yield place, (place / "comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue


def pid_namespace(process: Path) -> int | None:
    """The number of a process's PID namespace; None when it has ended, or is none of ours to look at."""
    try:
        return (process / "ns/pid").stat().st_ino
    except OSError:
        return None


def mounts_and_loops(daemon: Any) -> list[str]:
    """What of the state directory is mounted or attached; workspaces are the next start's to remove."""
    return [leak for leak in daemon.leaks() if "/.work/" not in leak or " " in leak]


def of_type(daemon: Any, build: str, kind: str) -> list[str]:
    """The checkpoints that events of a type name, in order."""
    return [e["data"]["checkpoint"] for e in daemon.events(build) if e["type"] == kind]


def assert_sbom_lists_what_dpkg_knows(
    artifacts: dict[str, Any], iso: Path, directory: Path
) -> None:
    """Both documents list exactly the packages of the delivered image, each with a digest, a supplier and a
    source, and most with a licence; the image has its digest too."""
    squashfs, database = directory / "filesystem.squashfs", directory / "database"
    extract = ["-extract", "/live/filesystem.squashfs", squashfs]
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", iso, *extract], check=True)
    status = "var/lib/dpkg/status"
    subprocess.run(["unsquashfs", "-quiet", "-d", database, squashfs, status], check=True)
    shown = subprocess.run(
        [
            "dpkg-query",
            f"--admindir={database}/var/lib/dpkg",
            "--show",
            "--showformat=${db:Status-Abbrev}\t${Package}\t${Version}\n",
        ],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    rows = [line.split("\t") for line in shown.splitlines()]
    installed = {(name, version) for state, name, version in rows if state.strip() == "ii"}
    assert len(installed) > 100
    cdx, spdx = (
        json.loads(Path(artifacts[f"debian-live.{kind}.json"]["path"]).read_text())
        for kind in ("cdx", "spdx")
    )
    components = {
        (each["name"], each["version"]): each
        for each in cdx["components"]
        if "arch=source" not in each["purl"]
    }
    packages = {
        (each["name"], each["versionInfo"]): each
        for each in spdx["packages"]
        if each.get("primaryPackagePurpose") == "LIBRARY"
    }
    # GRUB of the medium is this host's.
    of_host = {each for each in components if each[0] in ("grub-pc-bin", "grub-efi-amd64-bin")}
    assert set(components) - of_host == set(packages) - of_host == installed - of_host
    assert {name for name, _ in of_host} == {"grub-pc-bin", "grub-efi-amd64-bin"}
    depends = {each["ref"]: each.get("dependsOn", ()) for each in cdx["dependencies"]}
    for each in installed - of_host:
        assert [one["alg"] for one in components[each]["hashes"]] == ["SHA-256"]
        assert packages[each]["checksums"][0]["algorithm"] == "SHA256"
        assert components[each]["supplier"]["name"]
        assert any("arch=source" in name for name in depends[components[each]["bom-ref"]])
    # The others have copyright files in free text.
    assert sum("licenses" in components[each] for each in installed) > len(installed) * 0.8
    assert cdx["metadata"]["component"]["hashes"] == [
        {"alg": "SHA-256", "content": artifacts[iso.name]["sha256"]}
    ]


def assert_the_initramfs_mounts_any_medium(iso: Path, target: Path) -> None:
    command = ["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/live/initrd.img", target]
    subprocess.run(command, check=True, capture_output=True)
    plain = subprocess.run(["zstd", "-dc", target], capture_output=True, check=True).stdout
    listing = subprocess.run(
        ["cpio", "-t", "--quiet"], input=plain, capture_output=True, check=True
    )
    names = listing.stdout.decode().splitlines()
    modules = {name.rpartition("/")[2].partition(".ko")[0] for name in names if ".ko" in name}
    assert modules >= {
        *("virtio_blk", "virtio_scsi", "virtio_pci", "ahci", "sr_mod", "usb-storage"),
        *("isofs", "squashfs", "overlay"),
    }
    assert "scripts/live" in names


def assert_netboot_kit_starts_from_the_same_packages(
    daemon: Any, manifest: Path, directory: Path
) -> None:
    """The example of a netboot kit transfers no package again, and boots by iPXE to its init and by GRUB
    to its kernel. The kit is what the network served, complete, and a product with papers."""
    netboot = manifest.with_name("debian-netboot.xml")
    replace(netboot, CONSOLE, f"{CONSOLE} loglevel=7")
    (step,) = re.findall(
        r'<checkpoint name="verify-boot".*?</checkpoint>', netboot.read_text(), re.S
    )
    with_grub = step.replace("verify-boot", "verify-grub").replace(LOGIN, "Linux version")
    replace(
        netboot,
        step,
        "".join(
            (
                step.replace(FIRMWARE, "<argitem>bios</argitem>").replace(LOGIN, INIT_RUNS),
                with_grub.replace(FIRMWARE, "<argitem>uefi</argitem>"),
            )
        ),
    )
    build = daemon.submit(netboot)
    status = daemon.wait(build, "completed", seconds=900)
    assert status["checkpoints"][0]["state"] == "reused"
    artifacts = {artifact["name"]: Path(artifact["path"]) for artifact in status["artifacts"]}
    assert_sums(artifacts["SHA256SUMS"])
    assert "debian-netboot.tar" in artifacts["SHA256SUMS"].read_text()
    console = artifacts["verify-boot-bios.log"].read_text()
    assert "Hostname set to <debian-netboot>" in console
    assert "filesystem.squashfs 100%" in console
    console = artifacts["verify-grub-uefi.log"].read_text()
    assert "NBP filename is grubnetx64.efi" in console
    assert "Linux version" in console
    unpack = ["tar", "-C", directory, "-xf", artifacts["debian-netboot.tar"]]
    subprocess.run(unpack, check=True)
    squashfs = directory / "debian-netboot/filesystem.squashfs"
    shown = subprocess.run(["unsquashfs", "-cat", squashfs, "etc/hostname"], capture_output=True)
    assert shown.stdout == b"debian-netboot\n"
    statement = artifacts["debian.provenance.json"].read_text()
    assert "debian-netboot.tar" in statement
    components = json.loads(artifacts["debian.cdx.json"].read_text())["components"]
    assert {"grub-pc-bin", "grub-efi-amd64-bin"} <= {each["name"] for each in components}


def assert_sums(sums: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", sums], cwd=sums.parent, check=True)


def assert_secure_boot(daemon: Any, manifest: Path) -> None:
    """The same image with the distribution's signed programs starts, as far as to the report of its kernel,
    with firmware that demands signatures. Only the packages of the programs are installed in addition."""
    text = manifest.read_text()
    for before, after in (
        ("<img_params>", '<img_params secure_boot="distribution">'),
        ("<name>sudo</name>", "<name>sudo</name><name>shim-signed</name>"),
        ("<name>less</name>", "<name>less</name><name>grub-efi-amd64-signed</name>"),
        (INIT_RUNS, "secureboot: Secure boot enabled"),
        (
            'checkpoint_class="GrubBootMenu"/>',
            'checkpoint_class="GrubBootMenu"><args>boot=live</args></checkpoint>',
        ),
    ):
        assert before in text
        text = text.replace(before, after)
    signed = manifest.with_name("signed.xml")
    signed.write_text(text)
    build = daemon.submit(signed, "--grow")
    status = daemon.wait(build, "completed", seconds=600)
    assert "with Secure Boot, as the guest reports" in daemon.ctl("logs", build, "verify-boot")
    (iso,) = (Path(each["path"]) for each in status["artifacts"] if each["format"] == "iso")
    esp, shim = manifest.with_name("esp.img"), manifest.with_name("shim.efi")
    extract = ["-osirrox", "on", "-indev", iso, "-extract", "/boot/grub/efi.img", esp]
    subprocess.run(["xorriso", "-no_rc", *extract], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", esp, "::EFI/BOOT/BOOTX64.EFI", shim], check=True)
    command = ["sbverify", "--list", shim]
    signers = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Microsoft" in signers
    daemon.ctl("rm", build)


def boot_menu(iso: Path, target: Path) -> str:
    """The text of the menu on an ISO."""
    command = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", str(iso)]
    command += ["-extract", "/boot/grub/grub.cfg", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target.read_text()


def assert_boots_from_a_stick(iso: Path, directory: Path) -> None:
    """A plain machine with nothing but the medium starts to the login prompt of the image."""
    devices = ["-drive", f"if=none,id=medium,format=raw,file={iso},snapshot=on"]
    devices += ["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,removable=on"]
    console_with("debian-live login:", BOOT_SECONDS, directory, devices, firmware="bios")
