"""A matrix: one manifest built for every combination of values, as a group."""

from pathlib import Path

import pytest

from dcd.engine.groups import MOST_CELLS, Axis, cells, ids
from statemachine.errors import UsageError

MANIFEST = """<dc>
  <parameter name="suite" default="bookworm"/>
  <parameter name="fails" default="no"/>
  <profile name="plain"/>
  <profile name="dev"/>
  <distro name="small"><execution>
    <checkpoint name="common" type="CustomScript"><args>sleep 1</args></checkpoint>
    <checkpoint name="own" type="CustomScript">
      <args>test ${fails} = no &amp;&amp; echo ${suite} &gt; {MEDIA_DIR}/suite.txt</args>
      <kwargs><arglist name="deliver"><argitem>suite.txt</argitem></arglist></kwargs>
    </checkpoint>
    <checkpoint name="more" type="CustomScript" when="dev"><args>true</args></checkpoint>
  </execution></distro>
</dc>
"""
SUITES = ("bookworm", "trixie")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.xml"
    path.write_text(MANIFEST)
    return path


@pytest.mark.root
def test_a_group_is_one_thing_for_people_and_common_results_are_made_once(
    daemon, manifest, tmp_path
):
    matrix = ("--matrix", "suite=bookworm,trixie", "--matrix", "profile=plain,dev")
    group = daemon.ctl("submit", manifest, *matrix, "--idempotency-key", "a").strip()
    daemon.kill()
    daemon.start()

    table = daemon.ctl("follow", group)
    shown = daemon.json("status", group)

    ways = [daemon.status(each["id"])["checkpoints"] for each in shown["builds"]]
    assert sorted(each[0]["state"] for each in ways) == ["completed", *["reused"] * 3]
    assert sorted(each[1]["state"] for each in ways) == [*["completed"] * 2, *["reused"] * 2]
    assert [each["cell"] for each in shown["builds"]] == [
        {"suite": suite, "profile": profile} for suite in SUITES for profile in ("plain", "dev")
    ]
    assert {each["state"] for each in shown["builds"]} == {"completed"}
    assert [each["total_checkpoints"] for each in shown["builds"]] == [2, 3, 2, 3]
    assert "suite=trixie profile=dev" in table and f"group {group}: 4 builds, 4 completed" in table
    again = daemon.ctl("submit", manifest, *matrix, "--idempotency-key", "a").strip()
    assert again == group
    one = daemon.json("status", shown["builds"][3]["id"])
    assert (one["profiles"], one["parameters"]) == (["dev"], {"suite": "trixie"})
    assert not any(each["superseded_by"] for each in daemon.json("list"))

    out = tmp_path / "out"
    daemon.ctl("build", manifest, *matrix, "-o", out)
    files = {path.parent.name: path.read_text() for path in out.glob("*/suite.txt")}
    assert files == {f"{s}-{p}": f"{s}\n" for s in SUITES for p in ("plain", "dev")}
    later = {each["superseded_by"] for each in daemon.json("list")} - {None}
    assert {each.partition("-")[2] for each in later} == {
        each["id"].partition("-")[2] for each in shown["builds"]
    }
    daemon.ctl("rm", group)
    assert all(each["removed"] for each in daemon.json("status", group)["builds"])


@pytest.mark.root
def test_a_group_that_fails_has_one_exit_code_and_is_continued_by_the_same_command(
    daemon, manifest, tmp_path
):
    matrix = ("--matrix", "fails=no,yes")
    done = daemon.run("build", manifest, *matrix, "-o", tmp_path / "out")
    assert done.returncode == 3
    assert "fails=yes: failed 1/2" in done.stderr
    assert "To run the failed ones again: dcctl retry " in done.stderr
    assert [path.parent.name for path in (tmp_path / "out").glob("*/suite.txt")] == ["no"]
    again = daemon.run("build", manifest, *matrix, "-o", tmp_path / "out")
    assert again.returncode == 3 and again.stderr.startswith("continuing group ")
    assert len(daemon.json("list")) == 2
    (group,) = {each["id"].partition("-")[0] for each in daemon.json("list")}
    assert daemon.ctl("retry", group).count("\n") == 1, "the completed one is left alone"
    assert daemon.run("follow", group).returncode == 3
    daemon.run("cancel", group)
    states = [each["state"] for each in daemon.json("status", group)["builds"]]
    assert states[0] == "completed" and states[1] in ("cancelling", "cancelled")


WRONG = (
    ("suit=a,b", 8, "the manifest has no parameter 'suit'"),
    ("profile=dev,devv", 8, "the manifest has no profile 'devv'; did you mean 'dev'?"),
    ("suite=a,", 2, "the axis 'suite' has an empty value"),
    ("suite=a,b,a", 2, "the value 'a' of 'suite' is given twice"),
    ("suite=" + ",".join(map(str, range(65))), 2, "the matrix has 65 cells"),
)


@pytest.mark.root
def test_a_wrong_matrix_submits_nothing(daemon, manifest):
    for matrix, status, said in WRONG:
        for command in ("submit", "plan", "validate"):
            done = daemon.run(command, manifest, "--matrix", "fails=no", "--matrix", matrix)
            assert done.returncode == status, done.stderr
            told = done.stdout if (command, status) == ("validate", 8) else done.stderr
            assert said in told and "--matrix" in told
    assert daemon.json("list") == []


@pytest.mark.root
def test_a_matrix_is_checked_and_planned_before_it_is_submitted(daemon, manifest):
    matrix = ("--matrix", "suite=bookworm,trixie", "--matrix", "profile=plain,dev")
    assert daemon.ctl("validate", manifest, *matrix).endswith("m.xml: valid\n")
    planned = daemon.json("plan", manifest, *matrix)["cells"]
    assert [each["cell"] for each in planned] == [
        {"suite": suite, "profile": profile} for suite in SUITES for profile in ("plain", "dev")
    ]
    assert len({each["plan"]["checkpoints"][0]["key"] for each in planned}) == 1
    shown = daemon.ctl("plan", manifest, *matrix)
    assert "suite=trixie profile=dev\n" in shown
    assert "4 builds: 5 different of 10 checkpoints to run, about " in shown

    # What is wrong in one cell only is said with the cell, by each command.
    only = '<checkpoint name="more" type="CustomScript" when="dev"><args>true</args></checkpoint>'
    manifest.write_text(MANIFEST.replace(only, only.replace("<args>true</args>", "")))
    for command in ("validate", "plan", "submit"):
        done = daemon.run(command, manifest, "--matrix", "profile=plain,dev")
        assert done.returncode == 8
        assert "(with profile=dev)" in done.stdout + done.stderr
    assert daemon.json("list") == []


@pytest.mark.root
def test_the_builds_of_a_group_are_listed(daemon, manifest):
    alone = daemon.submit(manifest)
    groups = [daemon.submit(manifest, "--matrix", "suite=a,b") for _ in range(2)]
    for group in groups:
        listed = daemon.ctl("list", "--group", group, "--ids").split()
        assert len(listed) == 2
        assert {build.partition("-")[0] for build in listed} == {group}
    assert "there is no group" in daemon.run("list", "--group", alone).stderr
    assert daemon.run("list", "--group", "").returncode == 7
    daemon.ctl("rm", "--cancel", alone, *groups)


@pytest.mark.parametrize(
    "axes",
    [
        (),
        (Axis("a", ()),),
        (Axis("a", ("",)),),
        (Axis("a", ("1", "1")),),
        (Axis("a", ("1",)), Axis("a", ("2",))),
        (Axis("given", ("1",)),),
        (Axis("a", tuple(map(str, range(MOST_CELLS)))), Axis("b", ("1", "2"))),
    ],
)
def test_a_matrix_with_a_fault_is_refused_before_anything_is_planned(axes):
    with pytest.raises(UsageError) as refused:
        cells(axes, {"given": "x"})
    assert refused.value.resolution


def test_the_end_of_an_id_stands_for_the_cell_in_every_group():
    first, second = [{"suite": "a"}, {"suite": "b"}], [{"suite": "b"}, {"suite": "c"}]
    assert ids("one", first)[1].partition("-")[2] == ids("two", second)[0].partition("-")[2]
    assert len({*ids("one", [{"password": "***"}, {"password": "***"}])}) == 2
