"""A value that refers to a parameter that does not exist."""

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.planning.load import Settings, load


@pytest.mark.parametrize("attribute", ["suite", "uri"])
def test_a_value_with_an_unknown_parameter_has_that_fault_only(
    checkpoints: str, attribute: str
) -> None:
    values = {"uri": "http://mirror.example.org/debian", "suite": "bookworm", attribute: "${rle}"}
    repository = "".join(f' {name}="{value}"' for name, value in values.items())
    text = f"""<dc><parameter name="rel" default="bookworm"/><distro name="a">
<software name="deb" type="DEB"><source>
<repository{repository}/></source></software>
<execution><checkpoint name="a b" mod_path="sample_checkpoints" checkpoint_class="Options"/></execution>
</distro></dc>"""
    with pytest.raises(ManifestError) as refused:
        load(text, "/home/me/live.xml", settings=Settings(allowed_modules=(checkpoints,)))
    found = [(each.line, each.message) for each in refused.value.diagnostics]
    assert [message for line, message in found if line == 3] == ["there is no parameter 'rle'"]
    assert any(line == 4 for line, _ in found), "other faults are still found"
