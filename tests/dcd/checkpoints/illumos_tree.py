"""A small tree in the structure of an image of illumos. Its kernel, loader and boot programs are dummies:
tests with it are about structure, and nothing of it starts a machine."""

import os
import shutil
import struct
from pathlib import Path
from typing import Any

EPOCH = 1700000000
MULTIBOOT_AT = 1024

FILES = {
    "boot/cdboot": b"\xebcdboot".ljust(3000, b"c"),
    "boot/pmbr": b"\xebpmbr".ljust(510, b"\x11") + b"\x55\xaa",
    "boot/isoboot": b"i" * MULTIBOOT_AT + b"\x02\xb0\xad\x1b" + b"m" * 44 + b"i" * 20000,
    "boot/loader64.efi": b"MZ64".ljust(500_000, b"6"),
    "boot/loader32.efi": b"MZ32".ljust(400_000, b"3"),
    "boot/loader.conf": b"",
    "etc/release": b"  Sample illumos 2026\n  Copyright\n",
    "etc/passwd": b"root:x:0:0:Super-User:/root:/usr/bin/bash\nbin:x:2:2::/:\n",
    "etc/shadow": b"root:NP:19000::::::\nbin:NP:6445::::::\n",
    "etc/system": b"* settings\n",
    "etc/inet/hosts": b"127.0.0.1\tlocalhost\n",
    "etc/sudoers": b"root ALL=(ALL) ALL\n",
    "etc/gdm/custom.conf": b"[daemon]\n[security]\n",
    "etc/svc/profile/generic_limited_net.xml": b"<service_bundle/>",
    "etc/deep/er/file": b"not in the boot archive",
    "etc/.pwd.lock": b"",
    "var/adm/messages": b"",
    "lib/svc/seed/global.db": b"** This file contains an SQLite 2.1 database **\0seed",
    "lib/svc/manifest/network/network-physical.xml": b"<service_bundle/>",
    "lib/libc.so.1": b"\x7fELF",
    "kernel/genunix": b"\x7fELF",
    "sbin/init": b"\x7fELF",
    "opt/some/thing": b"optional",
    "platform/i86pc/kernel/amd64/unix": b"\x7fELFunix",
    "platform/i86pc/kernel/drv/amd64/rootnex": b"\x7fELF",
    "usr/bin/cat": b"\x7fELFcat",
    "usr/share/icons/x/icon-theme.cache": b"cache",
    "usr/share/large": bytes(range(256)) * 2048,
}


def make_tree(root: Path, kind: str = "loader") -> None:
    """Write the tree. `grub`: with GRUB 0.97 instead of illumos' loader."""
    for name, content in FILES.items():
        if kind == "grub" and name.startswith("boot/"):
            continue
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    if kind == "grub":
        (root / "boot/grub").mkdir(parents=True)
        (root / "boot/grub/stage2_eltorito").write_bytes(b"\xeastage2".ljust(4096, b"g"))
    (root / "usr/bin/su").write_bytes(b"\x7fELFsu")
    (root / "usr/bin/su").chmod(0o4555)
    (root / "etc/link").symlink_to("release")
    os.link(root / "usr/bin/cat", root / "usr/bin/kitten")
    (root / "etc/shadow").chmod(0o400)
    (root / "var/adm").chmod(0o775)


BA_INIT = """<software name="ba-init" type="CPIO">
<destination><dir path="{BOOT_ARCHIVE}"/></destination><source><dir path="{PKG_IMAGE_PATH}"/></source>
<software_data action="install">
<name>kernel</name><name>lib</name><name>sbin</name><name>platform</name><name>etc/passwd</name>
<name>etc/shadow</name><name>etc/gdm</name><name>etc/sudoers</name><name>usr/bin/su</name>
<name>usr/has/bin/vi</name>
</software_data></software>"""

BOOT_MODS = """<distro_spec><img_params><media_im><boot_mods title="Sample" timeout="7">
<boot_entry default_entry="true" insert_at="end"><title_suffix>with magnifier</title_suffix>
<kernel_args>-B assistive_tech=magnifier</kernel_args></boot_entry>
</boot_mods></media_im></img_params></distro_spec>"""


def run_all(bench: Any, *checkpoints: Any, elements: tuple[str, ...] = ()) -> Any:
    """Execute checkpoints one after the other on one DOC, as the engine would, with the build's time."""
    doc = bench.doc(BA_INIT, *elements)
    for checkpoint in checkpoints:
        faults = [found for found in checkpoint.check(doc) if found.severity == "error"]
        assert not faults, faults
        checkpoint.execute(bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))
        for left in (bench.root / "tmp").iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return doc


def gpt_entry(data: bytes, at: int) -> tuple[bytes, int, int, str]:
    """Type, first and last sector, and name of an entry of a GPT."""
    kind, _, first, last, _, name = struct.unpack_from("<16s16sQQQ72s", data, at)
    return kind, first, last, name.decode("utf-16-le").rstrip("\0")
