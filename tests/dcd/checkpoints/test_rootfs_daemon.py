"""Layers of container images in a real daemon: they outlive their checkpoint, and other builds share them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

MANIFEST = """<dc><distro name="app"><execution>
<checkpoint name="system" type="CustomScript"><args>mkdir -p {PKG_IMAGE_PATH}/bin &amp;&amp;
 cp /bin/true {PKG_IMAGE_PATH}/bin/ping &amp;&amp;
 ln {PKG_IMAGE_PATH}/bin/ping {PKG_IMAGE_PATH}/bin/ping6 &amp;&amp;
 setcap cap_net_raw+ep {PKG_IMAGE_PATH}/bin/ping</args></checkpoint>
<checkpoint name="base" type="OCILayer"/>
<checkpoint name="more" type="CustomScript"><args>rm {PKG_IMAGE_PATH}/bin/ping6 &amp;&amp;
 echo VERSION &gt; {PKG_IMAGE_PATH}/version</args></checkpoint>
<checkpoint name="image" type="OCIImage"><kwargs><arglist name="entrypoint"><argitem>ping</argitem></arglist>
<arg name="architecture">amd64</arg></kwargs></checkpoint>
</execution></distro></dc>
"""


def built(daemon: Any, version: str, directory: Path) -> Path:
    """The image of a build."""
    manifest = directory / "app.xml"
    manifest.write_text(MANIFEST.replace("VERSION", version))
    build = daemon.submit(manifest)
    status = daemon.wait(build, "completed")
    (artifact,) = [one for one in status["artifacts"] if one["name"] == "app.oci.tar"]
    found: Path = daemon.state_dir / artifact["path"]
    return found


def layers(image: Path) -> list[str]:
    argv = ["skopeo", "inspect", f"oci-archive:{image}"]
    found: list[str] = json.loads(subprocess.check_output(argv))["Layers"]
    return found


def test_builds_that_begin_alike_have_the_same_lower_layer(daemon: Any, tmp_path: Path) -> None:
    one, other = (built(daemon, version, tmp_path) for version in ("1", "2"))
    assert layers(one)[0] == layers(other)[0]
    assert layers(one)[1] != layers(other)[1]
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", other, "-C", layout], check=True)
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", bundle], check=True)
    root = bundle / "rootfs"
    assert sorted(path.name for path in (root / "bin").iterdir()) == ["ping"]
    assert (root / "version").read_text() == "2\n"
    shown = subprocess.check_output(["getcap", root / "bin/ping"], text=True)
    assert "cap_net_raw=ep" in shown
