"""What cannot be reproducible is known before the build, with the reason, and stays in its events."""

import pytest
from lxml import etree

from dcd.checkpoints.image.configure import DebianPrePkgImgMod
from dcd.checkpoints.vm.install_iscsi import InstallISCSI
from dcd.manifest.data_object import Origin
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import BUILTIN
from dcd.planner.rules import Rules
from dcd.planner.tasks import PLAN, PREVIEW, Manifest

SCRIPT = "dcd/checkpoints/custom_script"
VM = "dcd/checkpoints/vm"


def manifest(steps: str, target: str = "", formats: str = "") -> Manifest:
    machine = f"<distro_spec><img_params><vm_im>{formats}</vm_im></img_params></distro_spec>"
    text = f'<dc><distro name="d">{machine}<execution>{steps}</execution>{target}</distro></dc>'
    return Manifest(text, "/m.xml", Rules(), host_code=True)


def step(name: str, mod_path: str, checkpoint_class: str, given: str = "") -> str:
    named = f'name="{name}" mod_path="{mod_path}" checkpoint_class="{checkpoint_class}"'
    return f"<checkpoint {named}>{given}</checkpoint>"


def variances(asking: Manifest) -> dict[str, list[tuple[str, bool]]]:
    plan = PLAN.work(asking, lambda: None).plan
    shown = PREVIEW.work(asking, lambda: None).plan
    assert [c.variances for c in shown.checkpoints] == [c.variances for c in plan.checkpoints]
    return {
        planned.name: [(each.reason, each.certain) for each in planned.variances]
        for planned in plan.checkpoints
        if planned.variances
    }


def target(kind: str, image: str = "") -> str:
    """A disk with a root of this kind, and a swap partition."""
    return (
        f'<target><disk><disk_image name="d.raw" size="2gb" {image}/>'
        '<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>'
        '<gpt_partition name="2" part_type="esp"><size val="64mb"/></gpt_partition>'
        '<gpt_partition name="3" part_type="swap"><size val="64mb"/></gpt_partition>'
        f'<gpt_partition name="4" part_type="linux"><format type="{kind}" mountpoint="/"/>'
        "</gpt_partition></disk></target>"
    )


CREATE = step("disk", f"{VM}/create_disk", "CreateDisk")


def test_a_disk_with_derived_ids_and_ext4_has_none() -> None:
    assert variances(manifest(CREATE)) == {}


@pytest.mark.parametrize("chroot", ["true", "false"])
def test_a_script_may_read_the_clock(chroot: str) -> None:
    given = f'<kwargs><arg name="command">true</arg><arg name="chroot">{chroot}</arg></kwargs>'
    (found,) = variances(manifest(step("run", SCRIPT, "CustomScript", given)))["run"]
    assert found == ("a script may read the clock, random numbers or the network", False)


def test_so_may_a_script_of_a_configuration() -> None:
    for script, expected in (("<script>date</script>", 1), ("", 0)):
        checkpoint = DebianPrePkgImgMod("configure")
        doc = DataObjectCache()
        text = f'<distro name="d"><configuration name="configure">{script}</configuration></distro>'
        read = BUILTIN.read(etree.fromstring(text), lambda *_: Origin("m.xml", 1))
        doc.volatile.insert_children(read)
        found = list(checkpoint.variances(doc))
        assert len(found) == expected
        assert not any(each.certain for each in found)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_file_system_that_the_kernel_fills_differs_each_time(kind: str) -> None:
    ((reason, certain),) = variances(manifest(CREATE, target(kind)))["disk"]
    assert reason.startswith(f"partition 4: the kernel fills {kind} through a mount")
    assert certain


def test_random_ids_and_orders_are_the_users_choice() -> None:
    given = '<kwargs><arg name="out_of_order">true</arg></kwargs>'
    convert = step("convert", f"{VM}/convert", "Convert", given)
    compressed = '<vm_format type="qcow2" compression="zstd"/>'
    found = variances(manifest(CREATE + convert, target("ext4", 'id="random"'), compressed))
    assert found == {
        "disk": [('the manifest asks for random ids (<disk_image id="random">)', True)],
        "convert": [
            ("out_of_order: the clusters of a qcow2 are in the order of their compression", True)
        ],
    }
    plain = '<vm_format type="qcow2"/><vm_format type="vmdk"/>'
    assert variances(manifest(CREATE + convert, target("ext4"), plain)) == {}


def test_an_installation_in_a_guest_differs_each_time() -> None:
    (found,) = InstallISCSI("install").variances(DataObjectCache())
    assert found.reason.startswith("a guest installs the system")
    assert found.certain
