"""Which architectures this host can make images of, told by arch-test, or by the kernel without it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dcd.doctor import examine as examine_host
from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.planning.load import load
from dcd.planning.readiness import examine
from dcd.platform import foreign
from store.host import tools

Host = Callable[..., None]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Makes the host an x86 one whose arch-test knows these architectures (None: it has no arch-test), with
    these entries of binfmt_misc."""

    def make(known: str | None, binfmt: dict[str, str] | None = None, qemu: bool = False) -> None:
        programs, entries = tmp_path / "bin", tmp_path / "binfmt"
        programs.mkdir()
        entries.mkdir()
        if known is not None:
            tester = programs / "arch-test"
            tester.write_text(f'#!/bin/sh\ncase " {known} " in *" $1 "*) exit 0; esac; exit 1\n')
            tester.chmod(0o755)
        if binfmt is not None:
            (entries / "register").touch()
        for name, text in (binfmt or {}).items():
            (entries / name).write_text(text)
        emulator = programs / "qemu-aarch64-static"
        if qemu:
            emulator.touch()
        monkeypatch.setattr(tools, "TOOL_PATH", str(programs))
        monkeypatch.setattr(foreign, "_BINFMT", entries)
        monkeypatch.setattr(foreign, "_EMULATORS", (f"{programs}/qemu-{{}}-static",))
        monkeypatch.setattr("platform.machine", lambda: "x86_64")

    return make


def test_the_own_architecture_needs_nothing(host: Host) -> None:
    host(None)
    assert foreign.obstacle("amd64") is None


def test_what_the_kernel_runs_needs_arch_test_alone(host: Host) -> None:
    host(None)
    assert foreign.obstacle("i386") == (
        "arch-test is not installed",
        "apt-get install arch-test",
    )


def test_what_arch_test_says_counts(host: Host) -> None:
    host("i386 arm64")
    assert foreign.runnable() == ["arm64", "i386"]


def test_all_that_is_missing_is_named_at_once(host: Host) -> None:
    host(None)
    why, remedy = foreign.obstacle("arm64") or ("", "")
    assert "arch-test is not installed" in why
    assert "runs no arm64 programs" in why
    assert "apt-get install arch-test qemu-user-static binfmt-support" in remedy
    assert "binfmt_misc" in remedy
    assert "update-binfmts --enable qemu-aarch64" in remedy


def test_an_emulator_that_is_not_registered_is_told_from_one_that_is_not_there(host: Host) -> None:
    host("i386", binfmt={}, qemu=True)
    why, remedy = foreign.obstacle("arm64") or ("", "")
    assert why == "the kernel runs no arm64 programs"
    assert remedy == "register qemu-user: update-binfmts --enable qemu-aarch64"


@pytest.mark.parametrize(
    ("entry", "able"),
    [
        ("enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\n", True),
        ("enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OC\n", False),
        ("disabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\n", False),
    ],
)
def test_without_arch_test_the_kernels_registration_counts(
    host: Host, entry: str, able: bool
) -> None:
    host(None, binfmt={"qemu-aarch64": entry})
    why, _ = foreign.obstacle("arm64") or ("", "")
    assert ("runs no arm64 programs" not in why) == able


def found(architecture: str, *more: str, pause_before: str | None = None) -> list[Diagnostic]:
    text = f"""<dc><distro name="x"><software name="deb" type="DEB"><destination>
        <image variant="essential"
          architecture="{architecture}"/></destination></software><execution>
      <checkpoint name="deb" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>
      {"".join(more)}</execution></distro></dc>"""
    check = partial(examine, allowed=(), pause_before=pause_before)
    try:
        diagnostics = load(text, "/m.xml", examine=check).diagnostics
    except ManifestError as refused:
        diagnostics = refused.diagnostics
    return [each for each in diagnostics if "no packages are listed" not in each.message]


def test_an_image_that_this_host_cannot_make_is_found_when_the_manifest_is_checked(
    host: Host,
) -> None:
    host("i386")
    (fault,) = found("arm64")
    assert (fault.severity, fault.line) == ("error", 3)
    assert fault.message == "this host cannot make an image for arm64"
    assert "qemu-user-static" in fault.suggestion
    assert found("i386") == []
    (late,) = found("arm64", pause_before="deb")
    assert late.severity == "warning"


def test_an_architecture_that_there_is_not_is_refused(host: Host) -> None:
    host("i386")
    (fault,) = found("arm46")
    assert fault.message == "'arm46' is not an architecture of Debian; did you mean 'arm64'?"
    assert (fault.line, fault.suggestion) == (3, 'architecture="arm64"')


def test_what_boots_no_machines_of_the_architecture_says_so(host: Host) -> None:
    host("s390x i386 arm64")
    verify = (
        '<checkpoint name="v" mod_path="dcd/checkpoints/media/verify_boot" '
        'checkpoint_class="VerifyBoot"/>'
    )
    (fault,) = [each for each in found("s390x", verify) if "boots" in each.message]
    assert fault.message == (
        "v boots machines of amd64, i386, arm64 or riscv64 only, and the image is for s390x"
    )
    assert (fault.severity, fault.line) == ("error", 5)
    for able in ("i386", "arm64"):
        assert not any("boots" in each.message for each in found(able, verify))


def test_doctor_names_what_other_architectures_take(host: Host, tmp_path: Path) -> None:
    host(None)
    (check,) = [each for each in examine_host(tmp_path) if each.name == "architectures"]
    assert check.status == "ok"
    assert "arch-test" in check.value
    assert "qemu-user-static" in check.value
