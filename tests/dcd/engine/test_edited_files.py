"""A script beside the manifest is edited after a failure: what is said, and which command takes the edit."""

import pytest

pytestmark = pytest.mark.root

MANIFEST = """<dc><distro name="edited"><execution>
  <checkpoint name="script" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
    <kwargs><arg name="script">files/post.sh</arg></kwargs>
  </checkpoint>
</execution></distro></dc>
"""


@pytest.fixture
def failed(daemon, tmp_path):
    """A build that failed by its script, the manifest and the script."""
    script, manifest = tmp_path / "files" / "post.sh", tmp_path / "m.xml"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nfalse\n")
    manifest.write_text(MANIFEST)
    build = daemon.submit(manifest)
    daemon.wait(build, "failed")
    return build, manifest, script


def test_nothing_is_said_of_files_that_are_as_they_were(daemon, failed):
    build, _, _ = failed
    assert "since the submit" not in daemon.ctl("status", build)
    assert daemon.run("retry", build).stderr == ""


@pytest.mark.parametrize("command", ["retry", "resume"])
def test_the_edited_script_is_named_with_the_command_that_takes_it(daemon, failed, command):
    build, manifest, script = failed
    script.write_text("#!/bin/sh\ntrue\n")
    said = f"{script} has changed since the submit: dcctl resume {build} --manifest {manifest}"
    assert said in daemon.ctl("status", build)
    assert daemon.run(command, build).stderr == f"dcctl: warning: {said}\n"
    daemon.wait(build, "failed")  # as it was submitted
    daemon.ctl("resume", build, "--manifest", manifest)
    daemon.wait(build, "completed")


def test_a_failure_ends_with_how_to_look_at_it_and_how_to_go_on(daemon, failed):
    build, manifest, _ = failed
    lines = daemon.ctl("follow", build, status=3).splitlines()
    assert lines[-3:] == [
        f"To inspect it: dcctl shell {build}",
        f"After an edit: dcctl resume {build} --manifest {manifest}",
        f"To run the checkpoint again unchanged: dcctl retry {build}",
    ]
