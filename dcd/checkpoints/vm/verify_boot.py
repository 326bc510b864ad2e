"""`VerifyBoot`: proof that a virtual machine boots in each of its delivered formats, by booting it.

Each image is booted with each firmware, on a chosen controller, until the marker appears on the serial
console. Optionally a user then logs in, and a command has to print an answer. An OVA is booted from the
disk inside it, in place. Where the initramfs asks for the passphrase of an encrypted disk, it is typed on the
console, which does not show it. The console and the screen of each boot are delivered, and NAME.json with the
durations. See `dcd.checkpoints.boots`.
"""

import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from dcd.checkpoints import boots, products, secure_boot
from dcd.checkpoints.architecture import READS as ARCHITECTURE
from dcd.checkpoints.architecture import check_hardware, image_architecture
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.recorded import recorded_media
from dcd.checkpoints.vm import luks
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.formats import (
    Image,
    check_chosen,
    check_images,
    format_of_kind,
    images_of,
    machine_of,
)
from dcd.checkpoints.vm.layout import examine_layout, firmware
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import ACCOUNT, LINE, WORD
from dcd.manifest.objects import User
from dcd.manifest.objects.configuration import Password
from dcd.manifest.objects.distro import VmController
from dcd.manifest.secrets import password_text, references
from dcd.manifest.values import size_bytes
from dcd.platform.hypervisor import (
    Drive,
    Firmware,
    Hypervisor,
    HypervisorName,
    all_tools,
    attachments_of,
    devices_of,
    hypervisor_named,
    tools_of,
)
from dcd.platform.hypervisor.console import Trouble
from dcd.platform.inside import write
from statemachine.errors import CheckpointError

Controller = Literal["virtio", "scsi", "sata", "nvme", "ide"]

_DEFAULT_MEMORY_MB = 1024
_GUEST_WRITES_BYTES = 128 << 20
_LARGE_SECTORS: tuple[Controller, ...] = ("virtio", "scsi", "nvme")
"""Controllers with disks that may have sectors of 4096 bytes."""


@dataclass(frozen=True)
class VerifyBoot(Checkpoint):
    """Boot the delivered images.

    With `login` that user, whose password is in the manifest, logs in after the marker; with `command` too,
    that command is typed at the `prompt`, and `answer` has to appear. An image with `secure_boot` is
    booted by UEFI firmware that demands signatures.
    """

    DESCRIPTION = "Boot the virtual machine in every format"
    EXPECTED_SECONDS = 300.0
    READS = (
        *("//vm_im", "//user", "//distro.name", "//luks"),
        *(*secure_boot.READS, *ARCHITECTURE),
    )
    TOOLS = all_tools()
    PROVIDES = ()

    formats: tuple[Annotated[str, WORD], ...] = ()
    """A selection of the formats, as `TYPE` or `TYPE-SUBFORMAT`. Default: all."""

    firmware: tuple[Firmware, ...] = ()
    """The firmware to boot with. Default: that of `vm_im`."""

    controllers: tuple[Controller, ...] = ()
    """The disk controllers to boot on. Default: the first of `vm_im`, else virtio."""

    matrix: Literal["economical", "full"] = "economical"
    """The combinations to boot: `economical` boots every image with each firmware, on the controllers in
    turn; `full` boots every image with each firmware on every controller."""

    memory_mb: int | None = None
    """The memory of each guest, in MiB. Default: that of `vm_im`."""

    cpus: int | None = None
    """The number of processors of each guest. Default: that of `vm_im`."""

    marker: Annotated[str, LINE] = "login:"
    """Text that the serial console shows only after everything before it worked."""

    timeout_seconds: float = 600.0
    """The time limit until the marker appears, in seconds."""

    login: Annotated[str, ACCOUNT] | None = None
    """The user who logs in."""

    prompt: Annotated[str, LINE] = "$ "
    """The end of the shell's prompt after the login."""

    command: Annotated[str, LINE] | None = None
    """A command to type at the prompt."""

    answer: Annotated[str, LINE] | None = None
    """Text that the command has to print."""

    accelerator: boots.AcceleratorName = "auto"
    """The accelerator of the guests. `auto` is KVM if a tiny guest proves that it works here, else
    emulation (`tcg`)."""

    hypervisor: HypervisorName = "qemu"
    """The hypervisor. `virtualbox` and `bhyve`, which boot only the formats that they read, have been tested
    with stand-ins only."""

    side_by_side: int | None = None
    """The number of guests at a time. Default: one for each processor, within half of the host's memory."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=tools_of(
                self.hypervisor,
                uefi="uefi" in self._firmware(doc),
                architecture=image_architecture(doc),
            ),
            disk_bytes=self._side_by_side(doc) * _GUEST_WRITES_BYTES,
            devices=devices_of(self.hypervisor),
            secrets=references(
                (
                    *(_passwords_of(doc, self.login) if self.login else ()),
                    *luks.prompts_of(doc, examine_layout(doc)[0]).values(),
                )
            ),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield (products.DISK,)
        offered = tuple(image.kind for image in images_of(doc))
        if self.formats:
            yield from ((kind,) for kind in self.formats if kind in offered)
        elif offered:
            yield offered

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "boots")
        yield from boots.check_machine(self, doc, self.hypervisor, self.firmware)
        yield from check_images(doc, self)
        machine = machine_of(doc)
        for argument, chosen in (
            ("formats", self.formats),
            ("firmware", self.firmware),
            ("controllers", self.controllers),
        ):
            yield from boots.check_choice(self, doc, argument, chosen)
        yield from check_chosen(doc, self, self.formats, images_of(doc))
        yield from boots.check_conditions(
            *(self, doc, self.marker, self.timeout_seconds),
            *(self._memory_mb(doc), self._cpus(doc)),
            elsewhere={
                "memory_mb": machine.place_of("memory") if self.memory_mb is None else None,
                "cpus": machine.place_of("cpus") if self.cpus is None else None,
            },
        )
        if self.side_by_side is not None and self.side_by_side < 1:
            example = '<arg name="side_by_side">1</arg>'
            yield self.fault(doc, "side_by_side", "at least one guest runs at a time", "", example)
        yield from boots.check_secure_boot(self, doc, self.hypervisor, self._firmware(doc))
        yield from self._check_hypervisor(doc)
        yield from self._check_exchanges(doc)

    def _check_hypervisor(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        hypervisor = hypervisor_named(self.hypervisor, {})
        if "ide" in self._controllers(doc) and secure_boot.way_of(doc) is not None:
            yield self.fault(
                doc,
                "controllers",
                "a machine with IDE has no Secure Boot",
                "only QEMU's old chipset has IDE ports, and no firmware with Secure Boot",
                "choose others with the argument controllers",
            )
        attachments = attachments_of(self.hypervisor, image_architecture(doc))
        offered = ", ".join(c for c in get_args(Controller) if c in attachments)
        for item, controller in enumerate(self._controllers(doc)):
            if controller not in attachments:
                yield self.fault(
                    doc,
                    "controllers",
                    f"{self.hypervisor} has no {controller} controller",
                    f"it has {offered}",
                    "choose others with the argument controllers",
                    item,
                )
        made = {image.kind for image in images_of(doc)}
        for item, kind in enumerate(self.formats):
            if kind in made and not _readable(hypervisor, kind):
                yield self.fault(
                    doc,
                    "formats",
                    f"{self.hypervisor} does not read {kind}",
                    "",
                    "leave it out of formats, or boot with QEMU",
                    item,
                )

    def _check_exchanges(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if (self.command is None) != (self.answer is None) or (self.command and not self.login):
            yield self.fault(
                doc,
                "answer" if self.command is None else "command",
                "command, answer and login belong together",
                "the user logs in, the command is typed, and its answer has to appear",
                '<arg name="login">USER</arg><arg name="command">uname</arg>'
                '<arg name="answer">Linux</arg>',
            )
        if self.answer is not None and self.answer.strip() in (self.command or ""):
            yield self.fault(
                doc,
                "answer",
                f"the answer {self.answer!r} is in the echo of the command",
                f"the console shows what is typed: {self.command}",
                "wait for something that only the command's output has",
            )
        if self.login is not None and _password_of(doc, self.login) is None:
            yield self.fault(
                doc,
                "login",
                f"the manifest has no plain password of {self.login!r}",
                "the manifest has no user of that name with a password that is not hashed",
                f'add <user name="{self.login}"><password>live</password></user> to a configuration',
            )

    def execute(self, context: Context) -> None:
        doc = context.doc
        hypervisor = hypervisor_named(self.hypervisor, context.environment)
        images = self._images(context, hypervisor)
        _, layout = recorded_disk(context)
        architecture = image_architecture(doc)
        trials = self._trials(context, images, layout.sector_size)
        conditions = boots.Conditions(
            checkpoint=self.name,
            hypervisor=hypervisor,
            marker=self.marker,
            timeout_seconds=self.timeout_seconds,
            accelerator=boots.accelerator_for(self.hypervisor, self.accelerator, architecture),
            fall_back=self.accelerator == "auto",
            memory_mb=self._memory_mb(doc),
            cpus=self._cpus(doc),
            side_by_side=self._side_by_side(doc),
            prompts=_prompts(doc, layout),
            exchanges=self._exchanges(doc),
            architecture=architecture,
        )
        message = f"{len(trials)} boots of {', '.join(images)} under {conditions.under}"
        context.report(Report(0.0, message))
        done = boots.boot_all(context, trials, conditions, self.stopping)
        summary = write(context.media, f"{self.name}.json", self._summary(done, conditions.under))
        deliver_file(context, summary, "json", evidence=True)

    def _images(self, context: Context, hypervisor: Hypervisor) -> dict[str, Path]:
        """The images to boot, by kind."""
        made = {
            kind: path
            for kind, path in recorded_media(context).items()
            if format_of_kind(kind) is not None
        }
        if missing := [kind for kind in self.formats if kind not in made]:
            raise CheckpointError(
                f"there is no image of format {', '.join(missing)} to boot",
                f"made were {', '.join(made) or 'none'}",
                "run the checkpoint that makes it (Convert, CreateOVA) before",
            )
        wanted = {k: path for k, path in made.items() if not self.formats or k in self.formats}
        if unreadable := [kind for kind in wanted if not _readable(hypervisor, kind)]:
            names = ", ".join(unreadable)
            context.report(Report(message=f"{hypervisor.name} does not read {names}: not booted"))
        images = {kind: path for kind, path in wanted.items() if kind not in unreadable}
        if not images:
            raise CheckpointError(
                "there is no image to boot",
                "no earlier checkpoint has made one",
                "run a checkpoint that makes some (Convert, CreateOVA) before",
            )
        return images

    def _trials(
        self, context: Context, images: dict[str, Path], sector_size: int
    ) -> list[boots.Trial]:
        doc = context.doc
        controllers, kinds = self._controllers(doc), self._firmware(doc)
        if sector_size != 512 and ("bios" in kinds or not set(controllers) <= set(_LARGE_SECTORS)):
            raise CheckpointError(
                f"a disk with sectors of {sector_size} bytes does not boot like that",
                f"it boots with UEFI, on {', '.join(_LARGE_SECTORS)}",
                "choose these with the arguments firmware and controllers",
            )
        signed = secure_boot.way_of(doc) is not None
        certificate = secure_boot.certificate_of(context)
        trials = []
        for image, kind, controller in _matrix(list(images), kinds, controllers, self.matrix):
            drive = _drive(image, images[image], controller, sector_size)
            label = f"{image}-{kind}-{controller}"
            demanding = signed and kind == "uefi"
            trials.append(boots.Trial(label, kind, drive, demanding, certificate))
        return trials

    def _summary(self, done: Sequence[boots.Boot], under: str) -> str:
        """The content of NAME.json."""
        summary = {
            "hypervisor": self.hypervisor,
            "accelerator": under.lower(),
            "marker": self.marker,
            "command": self.command,
            "boots": [
                {
                    "boot": boot.trial.label,
                    "image": drive.image.name,
                    "firmware": boot.trial.firmware,
                    "controller": drive.attachment,
                    "accelerator": boot.accelerator if self.hypervisor == "qemu" else None,
                    "secure_boot": boot.trial.secure_boot,
                    "guest_reports_secure_boot": boot.reports_secure_boot,
                    "seconds_to_marker": round(boot.seconds, 1),
                    "seconds_to_answer": round(boot.exchange_seconds, 1) if self.login else None,
                }
                for boot in done
                if (drive := boot.trial.drive)
            ],
        }
        return json.dumps(summary, indent=2) + "\n"

    def _exchanges(self, doc: DataObjectCache) -> tuple[boots.Exchange, ...]:
        """The login and the command."""
        if self.login is None:
            return ()
        found = _password_of(doc, self.login)
        assert found is not None  # `check` guarantees it.
        password = password_text(found, os.environ)
        typed = [
            boots.Exchange(f"{self.login}\n", "assword:"),
            boots.Exchange(f"{password}\n", self.prompt),
        ]
        if self.command is not None and self.answer is not None:
            typed.append(boots.Exchange(f"{self.command}\n", self.answer))
        return tuple(typed)

    def _firmware(self, doc: DataObjectCache) -> tuple[Firmware, ...]:
        kinds: tuple[Firmware, ...] = ("bios", "uefi")
        return self.firmware or tuple(kind for kind in kinds if kind in firmware(doc))

    def _controllers(self, doc: DataObjectCache) -> tuple[Controller, ...]:
        described = machine_of(doc).get_children(class_type=VmController)
        return self.controllers or (described[0].type if described else "virtio",)

    def _memory_mb(self, doc: DataObjectCache) -> int:
        described = machine_of(doc).memory
        default = size_bytes(described) >> 20 if described else _DEFAULT_MEMORY_MB
        return default if self.memory_mb is None else self.memory_mb

    def _cpus(self, doc: DataObjectCache) -> int:
        return (machine_of(doc).cpus or 1) if self.cpus is None else self.cpus

    def _side_by_side(self, doc: DataObjectCache) -> int:
        return self.side_by_side or boots.guests_at_once(self._memory_mb(doc))


def _prompts(doc: DataObjectCache, layout: DiskLayout) -> tuple[boots.Prompt, ...]:
    """The questions of the initramfs for passphrases."""
    return tuple(
        boots.Prompt(
            luks.PROMPT.format(name=name),
            luks.passphrase_text(passphrase),
            Trouble(
                (luks.REFUSAL.format(name=name),),
                f"the guest refused the passphrase of {name}",
                f"the secret {passphrase.file or passphrase.env} is not the one that the disk was "
                "encrypted with: put that one back, or build again from the disk on",
            ),
        )
        for name, passphrase in luks.prompts_of(doc, layout).items()
    )


def _matrix(
    images: Sequence[str],
    kinds: Sequence[Firmware],
    controllers: Sequence[Controller],
    matrix: Literal["economical", "full"],
) -> Iterator[tuple[str, Firmware, Controller]]:
    """The combinations of image, firmware and controller."""
    if matrix == "full":
        yield from itertools.product(images, kinds, controllers)
        return
    pairs = list(itertools.product(images, kinds))
    for number in range(max(len(pairs), len(controllers))):
        # Each round begins one further, so that each firmware meets different controllers.
        turn = number + number // len(controllers)
        yield (*pairs[number % len(pairs)], controllers[turn % len(controllers)])


def _readable(hypervisor: Hypervisor, kind: str) -> bool:
    described = format_of_kind(kind)
    return described is not None and described.driver in hypervisor.formats


def _drive(kind: str, path: Path, controller: Controller, sector_size: int) -> Drive:
    """The image as a drive of the guest."""
    described = format_of_kind(kind)
    assert described is not None
    drive = Drive(path, controller, format=described.driver, sector_size=sector_size)
    if kind == Image("ova").kind:
        offset, length = _disk_in(path)
        return replace(drive, offset=offset, length=length)
    return drive


def _disk_in(ova: Path) -> tuple[int, int]:
    """The offset of the disk in an OVA, and its size."""
    try:
        with tarfile.open(ova, "r:") as tar:
            for member in tar:
                if member.name.endswith(".vmdk"):
                    return member.offset_data, member.size
    except tarfile.TarError as error:
        raise CheckpointError(f"{ova.name} is corrupt: it is no tar", str(error)) from error
    raise CheckpointError(f"{ova.name} is corrupt: there is no disk in it")


def _passwords_of(doc: DataObjectCache, login: str) -> list[Password]:
    users = doc.get_descendants(login, class_type=User)
    return [each for user in users for each in user.get_children(class_type=Password)]


def _password_of(doc: DataObjectCache, login: str) -> Password | None:
    """The password of a user of the manifest that can be typed, or None."""
    passwords = _passwords_of(doc, login)
    return next((one for one in passwords if not one.hashed and not one.locked), None)
