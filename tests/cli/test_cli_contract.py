"""The fake daemon of these tests against the real API: same shapes, or the other tests prove nothing."""

import msgspec
import pytest

from dcd.api import schemas
from statemachine import events as ev


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "live.xml"
    path.write_text("<dc/>")
    return str(path)


def test_the_fakes_builds_are_builds_of_the_api(daemon) -> None:
    build = daemon.build()
    build.tell(ev.BuildStarted(), ev.CheckpointStarted("transfer-deb", 1, "k", "/l"))
    assert set(build.view) == set(schemas.BuildView.__dataclass_fields__)
    checkpoint = build.view["checkpoints"][0]
    assert set(checkpoint) == set(schemas.CheckpointView.__dataclass_fields__)
    msgspec.convert(build.view, schemas.BuildView)


@pytest.mark.parametrize(
    ("arguments", "path", "schema"),
    [
        (["submit", "M", "--set", "a=b", "--priority", "3"], "/v1/builds", "SubmitRequest"),
        (["submit", "M", "--pause-before", "x", "--fresh", "--idempotency-key", "k"], "/v1/builds",
         "SubmitRequest"),
        (["submit", "M", "--fresh-from", "x"], "/v1/builds", "SubmitRequest"),
        (["submit", "M", "--require", "arm64", "--require", "kvm"], "/v1/builds", "SubmitRequest"),
        (["validate", "M", "--set", "a=b"], "/v1/validate", "ManifestRequest"),
        (["plan", "M"], "/v1/plan", "ManifestRequest"),
        (["pause", "k2", "--before", "x"], "/v1/builds/k2/pause", "PauseRequest"),
        (["pause", "k2"], "/v1/builds/k2/pause", "PauseRequest"),
        (["gc", "--max-bytes", "1K", "--dry-run"], "/v1/gc", "CollectRequest"),
        (["gc"], "/v1/gc", "CollectRequest"),
        (["shell", "k2", "--at", "x"], "/v1/builds/k2/shell", "ShellRequest"),
        (["shell", "k2"], "/v1/builds/k2/shell", "ShellRequest"),
        (["resume", "k2", "--from", "x"], "/v1/builds/k2/resume", "ResumeRequest"),
        (["resume", "k2", "--manifest", "M", "--set", "a=b"], "/v1/builds/k2/resume", "ResumeRequest"),
    ],
)  # fmt: skip
def test_what_dcctl_sends_is_what_the_api_takes(
    dcctl, daemon, manifest, arguments, path, schema
) -> None:
    arguments = [manifest if argument == "M" else argument for argument in arguments]
    dcctl(*arguments)  # the answer does not matter
    request = next(request for request in daemon.requests if request.path == path)
    expected = getattr(schemas, schema)
    assert expected.__struct_config__.forbid_unknown_fields  # or decoding would prove little
    msgspec.json.decode(request.body, type=expected)
