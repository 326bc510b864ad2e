"""The SMF manifest: valid, complete, and readable back into the very same settings."""

from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dcd.configuration import SETTINGS, Configuration, from_smf
from dcd.configuration.settings import ILLUMOS_RUN_DIRECTORY
from dcd.configuration.smf import properties
from smf.manifest import installed_manifest, smf_manifest

ROOT = Path(__file__).parents[2]
DTDS = [
    path
    for path in (
        Path(__file__).with_name("service_bundle.dtd"),
        ROOT.parent / "shared/data/smf/service_bundle.dtd.1",
    )
    if path.is_file()
]
"""This project's own, and the original where it is beside the checkout."""

TEXT = smf_manifest(
    Path("/opt/dcd/bin/dcd"), Path("/opt/dcd/svc-dcd"), Path("/opt/dcd/man"), properties()
)


@pytest.fixture
def bundle() -> Any:
    return etree.fromstring(TEXT.encode())


@pytest.mark.parametrize("path", DTDS, ids=lambda path: path.name)
def test_the_manifest_is_valid_against_the_service_bundle_dtd(bundle: Any, path: Path) -> None:
    dtd = etree.DTD(str(path))
    assert dtd.validate(bundle), dtd.error_log
    bundle.find("service/template").append(etree.Element("exec_method"))
    assert not dtd.validate(bundle)


def test_every_setting_has_a_property_and_a_template_that_describes_it(bundle: Any) -> None:
    properties = {
        element.get("name"): element
        for element in bundle.find(".//property_group[@name='config']")
        if not element.get("name").endswith("_authorization")
    }
    templates = {
        element.get("name"): element for element in bundle.iterfind(".//pg_pattern/prop_pattern")
    }
    assert list(properties) == list(templates) == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert properties[name].get("type") == templates[name].get("type")
        assert templates[name].findtext("description/loctext").startswith(setting.description)
        choices = [value.get("name") for value in templates[name].iterfind("constraints/value")]
        assert choices == list(setting.choices)


def test_what_needs_a_restart_says_so(bundle: Any) -> None:
    for pattern in bundle.iterfind(".//pg_pattern/prop_pattern"):
        says = "next restart" in pattern.findtext("description/loctext")
        assert says != SETTINGS[pattern.get("name")].reloads


def test_the_defaults_in_the_manifest_are_the_daemons_defaults(bundle: Any) -> None:
    lines = []
    for element in bundle.find(".//property_group[@name='config']"):
        values = [node.get("value") for node in element.iter("value_node")]
        if element.tag == "propval":
            values = [element.get("value") or '""']
        lines.append(f"config/{element.get('name')} {element.get('type')} {' '.join(values)}\n")
    configuration = from_smf("".join(lines), environment={}).configuration
    assert configuration == Configuration(socket=ILLUMOS_RUN_DIRECTORY / "dcd.sock")


def test_actions_and_values_are_guarded_by_authorizations_that_the_rbac_files_define(
    bundle: Any,
) -> None:
    used = {
        element.get("value")
        for element in bundle.iter("propval")
        if element.get("name").endswith("_authorization")
    }
    defined = {line.split(":")[0] for line in (ROOT / "smf/auth_attr").read_text().splitlines()}
    profile = (ROOT / "smf/prof_attr").read_text().splitlines()[0]
    name, _, _, _, attributes = profile.split(":")
    assert used == defined == set(attributes.removeprefix("auths=").split(","))
    (execution,) = (ROOT / "smf/exec_attr").read_text().splitlines()
    assert execution.split(":")[:3] == [name, "solaris", "cmd"]
    assert execution.count(":") == 6


ZONE = "every privilege of the zone"

NEEDED = {
    "make a file of root set-uid": ZONE,  # secpolicy_vnode_setid_modify: allzone when the owner is 0
    "keep that bit when the file is written or changes owner": ZONE,  # secpolicy_vnode_setid_retain
    "make a set-gid file, or a set-uid file of another user": "file_setid",
    "change the owner of files": "file_chown",
    "change modes and times of others' files": "file_owner",
    "read and write others' files": "file_dac_read file_dac_write file_dac_search file_dac_execute",
    "set system attributes (`sysattr=` of pkg)": "file_flag_set",  # secpolicy_xvattr
    "make device nodes": "sys_devices",  # secpolicy_sys_devices
    "mount file systems, clone ZFS datasets": "sys_mount",  # secpolicy_fs_mount, secpolicy_zfs
    "import pools, configure lofi": "sys_config",
    "enter an image": "proc_chroot",
    "change the user of package scripts": "proc_setid",
    "end processes of other users": "proc_owner",
    "lock a guest's memory (bhyve)": "proc_lock_memory",
}
"""What building images takes, and the privileges that illumos asks for it: uts/common/os/policy.c for those
named by their function, privileges(7) for the others."""


@pytest.mark.parametrize("operation", NEEDED)
def test_the_method_has_the_privileges_that_building_images_takes(
    bundle: Any, operation: str
) -> None:
    granted = set(bundle.find(".//method_credential").get("privileges").split(","))
    if NEEDED[operation] == ZONE:
        assert granted & {"all", "zone"}  # a list of privileges, however long, is not all of them
    else:
        assert granted & {"all", "zone"} or granted >= set(NEEDED[operation].split())


def test_the_documentation_has_the_table_of_privileges() -> None:
    text = (ROOT / "docs/how-to/illumos.md").read_text()
    for operation, privileges in NEEDED.items():
        named = (
            privileges if privileges == ZONE else ", ".join(f"`{p}`" for p in privileges.split())
        )
        assert f"| {operation} | {named} |" in text


def test_the_documentation_says_that_the_profile_is_root() -> None:
    (execution,) = (ROOT / "smf/exec_attr").read_text().splitlines()
    assert execution.endswith("uid=0")
    text = (ROOT / "docs/how-to/illumos.md").read_text()
    assert "**The profile is equivalent to root.**" in text


def test_the_documentation_has_each_profile_with_what_it_grants() -> None:
    executing = {
        line.partition(":")[0] for line in (ROOT / "smf/exec_attr").read_text().splitlines()
    }
    text = (ROOT / "docs/how-to/illumos.md").read_text()
    granted = {}
    for line in (ROOT / "smf/prof_attr").read_text().splitlines():
        name, _, _, _, attributes = line.split(":")
        granted[name] = set(attributes.removeprefix("auths=").split(","))
        (row,) = [row for row in text.splitlines() if row.startswith(f"| `{name}` |")]
        assert ("pfexec" in row) == (name in executing)
    assert granted == {
        "Distribution Constructor": {"solaris.smf.manage.dcd", "solaris.smf.value.dcd"},
        "Distribution Constructor Operator": {"solaris.smf.manage.dcd"},
    }


def test_a_contract_survives_a_build_tool_that_dumps_core(bundle: Any) -> None:
    startd = bundle.find(".//property_group[@name='startd']")
    assert {p.get("name"): p.get("value") for p in startd} == {"ignore_error": "core,signal"}


def test_the_installed_manifest_names_files_of_this_installation() -> None:
    bundle = etree.fromstring(installed_manifest(properties()).encode())
    method = {p.get("name"): p.get("value") for p in bundle.find(".//*[@name='method'][@type]")[:]}
    assert Path(method["script"]).is_file()
    assert Path(method["command"]).is_absolute()
