"""What decides a checkpoint's key, and what does not."""

import importlib
import sys

import pytest

from dcd.construction.constructors import construct, factories, own_modules, resolve
from dcd.manifest.doc import checkpoints_of
from dcd.manifest.includes import CapturedFile
from dcd.manifest.paths import PathError
from dcd.manifest.schema import can_match
from dcd.planning.ingredients import ingredients
from dcd.planning.load import Settings, load
from statemachine.plan import Ingredient

MANIFEST = """<dc><distro name="live">
<distro_spec><img_params><media_im><boot_mods title="Live"/></media_im></img_params></distro_spec>
<software name="one" type="DEB"><destination><image variant="minbase"/></destination>
<source><repository suite="bookworm" signed_by="/keys/x.gpg"/></source>
<software_data><name>linux</name></software_data></software>
<execution>
<checkpoint name="one" mod_path="sample_checkpoints" checkpoint_class="Transfer"/>
<checkpoint name="two" desc="words" mod_path="sample_checkpoints" checkpoint_class="Options">
<args>echo</args>
<kwargs><arg name="verbose">true</arg>
<arg name="script">go.sh</arg></kwargs></checkpoint>
<checkpoint name="three" mod_path="sample_checkpoints" checkpoint_class="made"/>
</execution>
<configuration name="two" type="sysconf" source="a.xml"/>
<configuration name="two" source="b.xml" dest="/b"/>
</distro></dc>
"""
FILES = ("/keys/x.gpg", "/me/a.xml", "/me/b.xml", "/me/go.sh")


@pytest.fixture
def settings(checkpoints: str) -> Settings:
    return Settings(allowed_modules=(checkpoints,))


def parts(
    settings: Settings, checkpoint: int, text: str = MANIFEST, **digests: str
) -> dict[tuple[str, str], Ingredient]:
    files: dict[str, CapturedFile | None] = {
        path: CapturedFile(digests.get(path[-4:].strip("/.").replace(".", "_"), "0"))
        for path in FILES
    }
    loaded = load(text, "/me/live.xml", files=files, settings=settings)
    assert loaded.missing == ()
    spec = checkpoints_of(loaded.doc)[checkpoint]
    names = (spec.mod_path, spec.checkpoint_class)
    instance = construct(*names, spec.name, spec.args, spec.kwargs, settings.allowed_modules)
    factory = resolve(*names, settings.allowed_modules)
    found = ingredients(loaded.doc, spec, factory, instance, loaded.inputs)
    named = {(part.kind, part.name): part for part in found}
    assert len(named) == len(found)
    return named


def digests_of(named: dict[tuple[str, str], Ingredient]) -> dict[tuple[str, str], str]:
    return {key: part.digest for key, part in named.items()}


def test_ingredients_name_everything_that_counts_with_its_line(settings: Settings) -> None:
    assert {key: part.line for key, part in parts(settings, 0).items()} == {
        ("class", ""): 7,
        ("version", ""): 7,
        ("code", ""): 7,
        ("manifest", "software"): 3,
        ("manifest", "boot_mods"): 2,
        ("input", "/keys/x.gpg"): 4,
    }
    assert {key: part.line for key, part in parts(settings, 1).items()} == {
        ("class", ""): 8,
        ("version", ""): 8,
        ("code", ""): 8,
        ("argument", "command"): 9,
        ("argument", "verbose"): 10,
        ("argument", "script"): 11,
        ("manifest", "boot_mods"): 2,
        ("manifest", "configuration 1"): 14,
        ("manifest", "configuration 2"): 15,
        ("input", "a.xml"): 14,
        ("input", "b.xml"): 15,
        ("input", "go.sh"): 11,
    }


def test_a_factory_brings_its_own_code_too(settings: Settings) -> None:
    assert ("code", "factory") in parts(settings, 2)


def test_what_a_checkpoint_reads_must_be_findable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts(settings, 0)
    transfer = sys.modules["sample_checkpoints"].Transfer
    monkeypatch.setattr(transfer, "READS", ("//distro/name",))
    with pytest.raises(PathError, match="cannot match anything in any manifest"):
        parts(settings, 0)
    monkeypatch.setattr(transfer, "READS", ("//distro.name", "//target"))
    assert ("manifest", "distro.name") in parts(settings, 0)


def test_every_checkpoint_of_the_project_reads_what_can_be_found() -> None:
    for module in own_modules():
        for factory in factories(importlib.import_module(module)).values():
            for path in getattr(factory, "READS", ()):
                assert can_match(path), f"{module}: {path}"


SAME = [
    ("<execution>", "\n\n<!-- comment --><execution  stop_on_error = 'true'>"),
    ('name="one" type="DEB"', "type='DEB'   name='one'"),
    ('<boot_mods title="Live"/>', "<boot_mods title='Live'>\n</boot_mods>"),
    ("<args>echo</args>", "<args>\n  echo\n</args>"),
    ('suite="bookworm"', 'suite="bookworm" components="main"'),
    ('desc="words"', 'log_level="debug"'),
    ('"one"', '"first"'),
    ('"two"', '"second"'),
]


@pytest.mark.parametrize("change", SAME)
def test_form_names_and_defaults_make_no_difference(
    settings: Settings, change: tuple[str, str]
) -> None:
    assert change[0] in MANIFEST
    changed = MANIFEST.replace(*change)
    for number in range(3):
        before, after = (digests_of(parts(settings, number, text)) for text in (MANIFEST, changed))
        assert before == after


DIFFERENT = [
    (0, ('"minbase"', '"standard"'), ("manifest", "software")),
    (0, ("linux<", "linux-rt<"), ("manifest", "software")),
    (0, ('title="Live"', 'title="Dead"'), ("manifest", "boot_mods")),
    (1, (">echo<", ">true<"), ("argument", "command")),
    (1, (">true<", ">false<"), ("argument", "verbose")),
    (1, ('dest="/b"', 'dest="/c"'), ("manifest", "configuration 2")),
    (1, ('"Options"', '"Anything"'), ("class", "")),
]


@pytest.mark.parametrize(("checkpoint", "change", "key"), DIFFERENT)
def test_a_changed_value_changes_the_ingredient_that_holds_it(
    settings: Settings, checkpoint: int, change: tuple[str, str], key: tuple[str, str]
) -> None:
    text = MANIFEST.replace(*change, 1)
    if key[0] == "class":
        text = text.replace("<args>echo</args>", "")
    before, after = (
        digests_of(parts(settings, checkpoint)),
        digests_of(parts(settings, checkpoint, text)),
    )
    assert before[key] != after[key]
    if key[0] != "class":
        assert {k for k in before if before[k] != after.get(k)} == {key}


def test_what_references_in_a_checkpoints_nodes_find_counts(settings: Settings) -> None:
    text = MANIFEST.replace('dest="/b"', 'dest="/b/%{//boot_mods.title}/%{//made.later}"')
    before = parts(settings, 1, text)
    reference = ("manifest", "%{//boot_mods.title}")
    assert before[reference].line == 15
    after = parts(settings, 1, text.replace('title="Live"', 'title="Other"'))
    changed = {name for name, part in before.items() if after[name].digest != part.digest}
    assert reference in changed
    assert ("manifest", "configuration 2") not in changed
    assert reference not in parts(settings, 0, text)


def test_a_changed_file_changes_only_the_checkpoints_that_name_it(settings: Settings) -> None:
    before = digests_of(parts(settings, 1))
    after = digests_of(parts(settings, 1, xml="0", o_sh="1"))
    assert {k for k in before if before[k] != after[k]} == {("input", "go.sh")}
    assert digests_of(parts(settings, 0)) == digests_of(parts(settings, 0, o_sh="1"))


OF_OTHERS = """<dc><distro name="live">
<software name="later" type="DEB"><destination><image variant="minbase" architecture="amd64"/></destination>
</software>
<target><disk><disk_image name="d.img" size="8gb"/>
<gpt_partition name="1" part_type="linux"><size val="1gb"/>FIRST</gpt_partition>
<gpt_partition name="2" part_type="linux"><size val="1gb"/>SECOND</gpt_partition></disk></target>
<execution><checkpoint name="c" mod_path="dcd/checkpoints/MODULE" checkpoint_class="CLASS">
ARGUMENT</checkpoint>
<checkpoint name="later" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>
</execution></distro></dc>"""
LUKS = """<luks><passphrase file="/etc/dcd/secrets/disk"/><format type="ext4" mountpoint="/a"/></luks>"""
PLAIN = '<format type="ext4" mountpoint="/b"/>'


def of_others(module: str, argument: str = "", first: str = PLAIN, second: str = LUKS) -> str:
    path, _, cls = module.rpartition("/")
    changed = {"MODULE": path, "CLASS": cls, "ARGUMENT": argument, "FIRST": first, "SECOND": second}
    text = OF_OTHERS
    for name, value in changed.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize(
    ("module", "argument"),
    [
        (
            "image/configure/DebianPrePkgImgMod",
            '<kwargs><arg name="serial_console">auto</arg></kwargs>',
        ),
        ("vm/create_disk/CreateDisk", ""),
        ("boot/archive/DebianBootArchive", ""),
        ("media/verify_boot/VerifyBoot", ""),
        ("vm/verify_boot/VerifyBoot", ""),
    ],
)
def test_the_architecture_counts_where_the_machine_follows_from_it(
    settings: Settings, module: str, argument: str
) -> None:
    """Also that of software which is transferred later: its packages are in no key before."""
    text = of_others(module, argument)
    other = text.replace("amd64", "arm64")
    assert digests_of(parts(settings, 0, text)) != digests_of(parts(settings, 0, other))


def test_the_partition_that_is_encrypted_counts_for_what_opens_it(settings: Settings) -> None:
    """The name of the opened device, and the UUID in crypttab, follow from the number of the partition."""
    name = "boot/archive/DebianBootArchive"
    first, second = of_others(name, "", LUKS, PLAIN), of_others(name, "", PLAIN, LUKS)
    assert digests_of(parts(settings, 0, first)) != digests_of(parts(settings, 0, second))
