"""The tables of what workers may have, against the checkpoints of the project."""

import ast
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.bounds import CAPABILITIES, DEVICES, PUBLISHING, WRITES
from dcd.platform.hypervisor.choice import devices_of
from dcd.platform.iscsi.lio import CONFIGFS
from statemachine.variation import Variation
from store.host.capabilities import MOUNTS
from store.host.conversation import receive, result_of, send
from store.host.devices import ALL_DEVICES

CHECKPOINTS = Path(__file__).parents[3] / "dcd" / "checkpoints"


def needs() -> dict[str, dict[str, str]]:
    """What the calls of `Needs` in each module give for devices, writes and capabilities, as source."""
    found: dict[str, dict[str, str]] = {}
    for path in CHECKPOINTS.rglob("*.py"):
        module = ".".join(("dcd.checkpoints", *path.relative_to(CHECKPOINTS).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Needs":
                given = {each.arg: ast.unparse(each.value) for each in node.keywords if each.arg}
                found.setdefault(module, {}).update(given)
    return found


def test_the_tables_have_what_the_projects_checkpoints_need_and_no_more() -> None:
    by_module = needs()
    script = by_module.pop("dcd.checkpoints.custom_script")
    assert "self.devices" in script["devices"]  # which needs host_code
    hypervisors = {name for each in ("qemu", "virtualbox", "bhyve") for name in devices_of(each)}
    meaning = {
        "(ALL_DEVICES,)": {ALL_DEVICES},
        "(ALL_DEVICES,) if mounted else ()": {ALL_DEVICES},
        "devices_of(self.hypervisor)": hypervisors,
    }
    wanted = {m: meaning[given["devices"]] for m, given in by_module.items() if "devices" in given}
    for module, devices in wanted.items():
        allowed = {
            name for start, names in DEVICES.items() if module.startswith(start) for name in names
        }
        assert devices <= allowed, module
    assert all(any(module.startswith(start) for module in wanted) for start in DEVICES)
    writing = {module: given["writes"] for module, given in by_module.items() if "writes" in given}
    assert set(writing) == {*WRITES, PUBLISHING}
    assert WRITES["dcd.checkpoints.vm.install_iscsi"] == {CONFIGFS}
    asked = " ".join(given.get("capabilities", "FILES") for given in by_module.values())
    capabilities = set(re.findall(r"\b[A-Z]+\b", asked))
    assert capabilities == {"FILES", "CHROOT", "MOUNTS"}
    assert set(MOUNTS) == CAPABILITIES


@pytest.mark.root
@pytest.mark.slow
def test_a_script_outside_the_image_is_refused_by_the_worker(bench: Any) -> None:
    """Whatever the order says of the checkpoint."""
    order = replace(
        bench.order(args=("touch {PKG_IMAGE_PATH}/ran",)),
        manifest='<dc><distro name="x"><execution/></distro></dc>',
    )
    receiving, sending = os.pipe()
    with bench.launcher._converse() as connection, os.fdopen(receiving) as messages:
        send(connection, {"operation": "attempt", "arguments": order}, (sending,))
        os.close(sending)
        result_of(receive(connection)[0])
        said = messages.read()
        assert result_of(receive(connection)[0])["no_memory"] is False
    assert "would run code on the host" in said
    assert list(bench.state.glob("layers/*/.work/*/layer/tree/pkg_image/ran")) == []


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(
    "variation", [Variation(home="/a/../b"), Variation(place="../up"), Variation(later_seconds=-1)]
)
def test_surroundings_are_varied_within_bounds_only(bench: Any, variation: Variation) -> None:
    refused = bench.attempt(bench.order(variation=variation))
    assert "of a variation" in " ".join(refused["error"]["texts"])
