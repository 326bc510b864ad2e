"""PublishRegistry with Debian's docker-registry, read by skopeo, through a proxy with faults."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.publish.registry import PublishRegistry
from dcd.platform.publishing import http
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.publishing import (
    Faulty,
    delivered,
    faulty,
    published,
    serving,
)
from tests.docker_registry import digest, registry_command

pytestmark = pytest.mark.slow

LAYER = bytes(range(256)) * 12288
"""3 MiB."""


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSES", (0.01, 0.02, 0.03))
    monkeypatch.setattr("dcd.platform.publishing.registry.PIECE_BYTES", 1 << 20)
    monkeypatch.setenv("DCD_SECRET_REGISTRY", "me:word")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A registry that takes `me` with the password `word`."""
    directory = tmp_path_factory.mktemp("registry")
    with serving(registry_command(directory, deletes=False)) as port:
        yield port


@pytest.fixture
def proxy(registry: int) -> Iterator[Faulty]:
    with faulty(registry) as found:
        yield found


def layout(layer: bytes = LAYER) -> bytes:
    """An image layout in a tar."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()

    def named(content: bytes, kind: str) -> dict[str, Any]:
        return {"mediaType": kind, "digest": digest(content), "size": len(content)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": named(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [named(layer, "application/vnd.oci.image.layer.v1.tar")],
        }
    ).encode()
    top = named(manifest, "application/vnd.oci.image.manifest.v1+json")
    index = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    blobs = {f"blobs/{digest(each).replace(':', '/')}": each for each in (config, manifest, layer)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in {"index.json": index, "oci-layout": b"{}", **blobs}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def pushing(proxy: Faulty, name: str, **more: Any) -> PublishRegistry:
    given = {"credentials": "DCD_SECRET_REGISTRY", "timeout_seconds": 20.0, **more}
    return PublishRegistry("p", reference=f"{proxy.host}/{name}:1", insecure=True, **given)


def tags(registry: int, name: str) -> str:
    command = ["skopeo", "inspect", "--tls-verify=false", "--creds", "me:word", "--raw"]
    found = subprocess.run(
        [*command, f"docker://127.0.0.1:{registry}/{name}:1"], capture_output=True, text=True
    )
    return found.stdout if found.returncode == 0 else ""


def test_an_image_is_pushed_once_and_read_by_skopeo(
    bench: Any, registry: int, proxy: Faulty, tmp_path: Path
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout()})
    first = published(context, pushing(proxy, "team/image", tags=("latest",)))
    assert [(each.url.partition("@")[0], each.uploaded) for each in first] == [
        (f"{proxy.host}/team/image:1", True),
        (f"{proxy.host}/team/image:latest", True),
    ]
    command = ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", "me:word"]
    source, target = f"docker://127.0.0.1:{registry}/team/image:latest", f"dir:{tmp_path}/copy"
    subprocess.run([*command, source, target], check=True, capture_output=True)
    assert (tmp_path / "copy" / sha256(LAYER).hexdigest()).read_bytes() == LAYER
    assert digest((tmp_path / "copy/manifest.json").read_bytes()) == first[0].url.partition("@")[2]

    proxy.requests.clear()
    again = published(context, pushing(proxy, "team/image", tags=("latest",)))
    assert [(each.url, each.uploaded) for each in again] == [(each.url, False) for each in first]
    assert {line.split()[0] for line in proxy.requests} == {"HEAD"}, "nothing is sent"


def test_other_products_are_one_artifact(bench: Any, registry: int, proxy: Faulty) -> None:
    context = delivered(bench, live_iso=LAYER, live_tsv=b"packages")
    published(context, pushing(proxy, "team/files"))
    manifest = json.loads(tags(registry, "team/files"))
    assert manifest["artifactType"] == "application/vnd.dcd.products"
    assert {
        each["annotations"]["org.opencontainers.image.title"]: each["digest"]
        for each in manifest["layers"]
    } == {"live.iso": digest(LAYER), "live.tsv": digest(b"packages")}


def test_a_blob_that_breaks_off_continues_where_the_registry_has_it(
    bench: Any, registry: int, proxy: Faulty
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout(LAYER[::-1])})
    proxy.breaks += [700_000, 400_000]
    published(context, pushing(proxy, "team/broken"))
    assert "config" in tags(registry, "team/broken")
    assert "continuing" in bench.messages()
    assert proxy.received < 2 * len(LAYER)


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_a_registry_that_does_not_work_for_a_while_is_tried_again(
    bench: Any, registry: int, proxy: Faulty, fault: str
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout(fault.encode() * 1000)})
    if fault == "500":
        proxy.answers += [500, 503]
    else:
        proxy.hangs = 1
    published(context, pushing(proxy, f"team/retry{fault}", timeout_seconds=2.0))
    assert "trying again" in bench.messages()
    assert "config" in tags(registry, f"team/retry{fault}")


def test_a_registry_that_stays_broken_is_an_error_and_shows_no_tag(
    bench: Any, registry: int, proxy: Faulty
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout(b"other" * 1000)})
    checkpoint = pushing(proxy, "team/never")
    # Authentication, the tag, and the first blob work.
    original = proxy.requests

    class Counting(list[str]):
        def append(self, line: str) -> None:
            super().append(line)
            if line.startswith("PUT ") and "/manifests/" in line:
                proxy.answers += [500] * 10

    proxy.requests = Counting(original)
    with pytest.raises(CheckpointError) as failed:
        published(context, checkpoint)
    assert "does not take what is published" in failed.value.brief
    assert "500" in failed.value.details
    assert "dcctl retry" in failed.value.resolution
    assert tags(registry, "team/never") == ""
    proxy.requests, proxy.answers = original, []
    proxy.requests.clear()
    published(context, checkpoint)
    assert not proxy.sent("POST"), "the blobs are there already"
    assert "config" in tags(registry, "team/never")


def test_wrong_credentials_are_an_error(
    bench: Any, proxy: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout()})
    monkeypatch.setenv("DCD_SECRET_REGISTRY", "me:wrong")
    with pytest.raises(CheckpointError, match=r"refuses the credentials \(401\)") as failed:
        published(context, pushing(proxy, "team/image"))
    assert "wrong" not in str(failed.value)
    monkeypatch.setenv("DCD_SECRET_REGISTRY", "nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        published(context, pushing(proxy, "team/image"))
    proxy.answers.append(403)
    monkeypatch.setenv("DCD_SECRET_REGISTRY", "me:word")
    with pytest.raises(CheckpointError, match=r"refuses the credentials \(403\)"):
        published(context, pushing(proxy, "team/image"))


def test_a_product_that_has_changed_or_a_damaged_layout_is_refused(
    bench: Any, proxy: Faulty
) -> None:
    context = delivered(bench, **{"image.oci.tar": layout()})
    (bench.root / "media/image.oci.tar").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="has changed since it was delivered"):
        published(context, pushing(proxy, "team/image"))
    with pytest.raises(CheckpointError, match="is not an OCI image layout"):
        published(delivered(bench, **{"image.oci.tar": b"x" * 2000}), pushing(proxy, "team/x"))
    with pytest.raises(CheckpointError, match="nothing to publish"):
        published(replace(context, artifacts=()), pushing(proxy, "team/image"))
