"""The SBOM that an image with packages gets without asking for one."""

import pytest
from lxml import etree

from dcd.manifest.doc import checkpoints_of
from dcd.planning.load import Loaded, load

DEB = '<software name="t" type="DEB"><software_data><name>a</name></software_data></software>'
TRANSFER = '<checkpoint name="t" type="TransferDEB"/>'
SCRIPT = '<checkpoint name="{}" type="CustomScript"><args>true</args></checkpoint>'


def loaded(content: str, attributes: str = "") -> Loaded:
    return load(f'<dc><distro name="d" {attributes}>{content}</distro></dc>', "/m.xml")


def steps(made: Loaded) -> list[tuple[str, str]]:
    return [(each.name, each.checkpoint_class) for each in checkpoints_of(made.doc)]


def test_it_is_written_after_the_last_checkpoint() -> None:
    made = loaded(f"{DEB}<execution>{TRANSFER}{SCRIPT.format('last')}</execution>")
    assert steps(made)[2:] == [("sbom", "WriteSBOM")]
    assert checkpoints_of(made.doc)[-1].kwargs == {"optional": "true"}
    # The stored manifest has it, and is left as it is when it is sent again.
    stored = etree.fromstring(made.canonical.encode())
    assert stored.xpath("count(//checkpoint[@checkpoint_class='WriteSBOM'])") == 1
    assert load(made.canonical, "/m.xml").canonical == made.canonical


@pytest.mark.parametrize(
    ("content", "attributes"),
    [
        (f"{DEB}<execution>{TRANSFER}</execution>", 'sbom="none"'),
        (f"<execution>{SCRIPT.format('only')}</execution>", ""),
    ],
    ids=["turned off", "no packages"],
)
def test_some_images_get_none(content: str, attributes: str) -> None:
    assert not any(name == "WriteSBOM" for _, name in steps(loaded(content, attributes)))


def test_an_own_checkpoint_replaces_it() -> None:
    own = (
        '<checkpoint name="bom" type="WriteSBOM"><kwargs><arglist name="formats">'
        "<argitem>spdx</argitem></arglist></kwargs></checkpoint>"
    )
    made = loaded(f"{DEB}<execution>{TRANSFER}{own}{SCRIPT.format('last')}</execution>")
    assert [name for name, _ in steps(made)] == ["t", "bom", "last"]


def test_it_takes_a_name_that_is_free() -> None:
    made = loaded(f"{DEB}<execution>{TRANSFER}{SCRIPT.format('sbom')}</execution>")
    assert steps(made)[-1] == ("write-sbom", "WriteSBOM")


def test_ips_packages_get_one_too() -> None:
    ips = (
        '<software name="i" type="IPS"><source><publisher name="p"><origin name="http://p.example.org"/>'
        "</publisher></source><software_data><name>a</name></software_data></software>"
    )
    made = loaded(f'{ips}<execution><checkpoint name="i" type="TransferIPS"/></execution>')
    assert steps(made)[-1] == ("sbom", "WriteSBOM")
