"""What the daemon measures: what a scrape says of builds that ran, and what survives a restart."""

import re
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dcd.api.farm_metrics import FarmMetrics
from dcd.api.metrics import CONTENT_TYPE
from dcd.engine.hosts import Census, Host, Wait
from statemachine.errors import Unavailable
from store.eventlog import LogFull, SqliteLog

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
RUNBOOK = REFERENCE.parents[1] / "how-to" / "operate.md"
STATES = {
    "queued",
    "running",
    "pausing",
    "paused",
    "failed",
    "cancelling",
    "cancelled",
    "completed",
}
SCRIPT = "CustomScript"
FARM = Census(
    hosts=(
        Host("a", "up", ("amd64",), ("x", "y"), "0.1", 1.0, 0.1),
        Host("b", "draining", (), (), "0.2", 2.5, -30.0),
        Host("c", "lost", (), (), "", None),
    ),
    waits=(
        *(Wait(f"b{number}", "amd64", "busy", "") for number in range(40)),
        *(Wait(f"c{number}", f"l{number}", "labels", "no member") for number in range(60)),
    ),
    age_seconds=7.0,
)


class Scraped:
    """The samples of a scrape: `value(name, label=...)`."""

    def __init__(self, text: str) -> None:
        self.samples: dict[str, list] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples[sample.name].append(sample)

    def value(self, name: str, **labels: str) -> float | None:
        found = [s.value for s in self.samples[name] if labels.items() <= s.labels.items()]
        return sum(found) if found else None


@pytest.fixture
def scrape(daemon):
    return lambda: Scraped(daemon.ctl("metrics"))


@pytest.mark.root
def test_a_scrape_tells_how_builds_went(daemon, scrape, write_manifest):
    good = write_manifest(("one", "true"), ("two", "true"), name="good")
    daemon.wait(daemon.submit(good), "completed")
    daemon.wait(daemon.submit(good), "completed")
    daemon.wait(daemon.submit(write_manifest(("bad", "false"), name="bad")), "failed")
    daemon.wait(daemon.submit(good, "--pause-before", "two"), "paused")
    stuck = daemon.submit(write_manifest(("long", "sleep 1000"), name="long"))
    daemon.wait_for_event(stuck, "CheckpointStarted")
    daemon.ctl("cancel", stuck)
    daemon.wait(stuck, "cancelled")

    found = scrape()

    assert {s.labels["state"] for s in found.samples["dcd_builds"]} == STATES
    assert {s.labels["state"]: s.value for s in found.samples["dcd_builds"] if s.value} == {
        "completed": 2,
        "failed": 1,
        "paused": 1,
        "cancelled": 1,
    }
    assert found.value("dcd_builds_paused", cause="requested") == 1
    assert found.value("dcd_queue_wait_seconds_count") == 5
    outcomes = {"completed": 2, "reused": 3, "failed": 1, "interrupted": 1}
    for outcome, count in outcomes.items():
        assert found.value("dcd_checkpoints_total", type=SCRIPT, outcome=outcome) == count
        timed = found.value("dcd_checkpoint_seconds_count", type=SCRIPT, outcome=outcome)
        assert timed == (None if outcome == "reused" else count)
    assert found.value("dcd_layers") == 2
    assert found.value("dcd_event_log_commit_seconds_count") > 10
    assert found.value("dcd_event_log_available") == 1
    assert found.value("dcd_requests_total", operation="submit", status="201") == 5
    assert found.value("process_resident_memory_bytes") > 0


@pytest.mark.root
def test_a_restart_forgets_counters_but_not_builds_nor_how_long_they_waited(
    daemon, scrape, write_manifest
):
    daemon.wait(daemon.submit(write_manifest(("one", "true"))), "completed")
    daemon.settings["max_running_builds"] = 1
    daemon.stop()
    daemon.start()
    first = daemon.submit(write_manifest(("long", "sleep 1000"), name="long"))
    daemon.wait(first, "running")
    second = daemon.submit(write_manifest(("two", "true"), name="two"))
    submitted = daemon.json("status", second)["submitted_at"]
    daemon.kill()
    daemon.start()

    found = scrape()
    assert found.value("dcd_builds", state="completed") == 1
    assert found.value("dcd_builds", state="queued") == 1
    assert found.value("dcd_checkpoints_total", outcome="completed") is None
    assert found.value("dcd_oldest_queued_seconds") > 0
    daemon.ctl("cancel", first)
    daemon.wait(second, "completed")

    (started,) = [e for e in daemon.events(second) if e["type"] == "BuildStarted"]
    waited = _seconds(started["time"]) - _seconds(submitted)
    assert scrape().value("dcd_queue_wait_seconds_sum") == pytest.approx(waited, abs=0.01)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_what_is_on_the_disk_is_measured_once_a_minute(request_, app, monkeypatch):
    measured = []
    monkeypatch.setattr("dcd.api.metrics.Metrics._measure", lambda *_, **__: measured.append(1))

    for _ in range(3):
        assert request_("GET", "/metrics").status_code == 200
    assert len(measured) == 1

    monkeypatch.setattr("dcd.api.metrics.MEASURED_SECONDS", 0.0)
    assert request_("GET", "/metrics").status_code == 200
    assert len(measured) == 2


def test_a_scrape_of_any_member_tells_of_all_members_and_why_builds_wait(request_, app):
    app.state.engine.hosts = SimpleNamespace(last_census=lambda: FARM)

    found = Scraped(request_("GET", "/metrics").text)

    assert [found.value("dcd_farm_member_up", host=host) for host in "abc"] == [1, 1, 0]
    assert [found.value("dcd_farm_member_draining", host=host) for host in "abc"] == [0, 1, 0]
    assert found.value("dcd_farm_member_builds", host="a") == 2
    assert found.value("dcd_farm_member_heartbeat_age_seconds", host="b") == 2.5
    assert found.value("dcd_farm_member_heartbeat_age_seconds", host="c") is None
    assert found.value("dcd_farm_member_clock_ahead_seconds", host="b") == -30
    assert found.value("dcd_farm_member_info", host="b", version="0.2") == 1
    assert found.value("dcd_farm_queue_waiting", reason="busy", labels="amd64") == 40
    assert found.value("dcd_farm_look_age_seconds") == 7.0
    series = found.samples["dcd_farm_queue_waiting"]
    assert len(series) == 21, "manifests name labels as they like"
    assert sum(each.value for each in series) == 100
    app.state.engine.hosts = SimpleNamespace(last_census=Census)
    assert Scraped(request_("GET", "/metrics").text).value("dcd_farm_member_up") is None


def test_a_scrape_of_a_farm_counts_the_builds_of_all_members_and_works_without_the_log(
    request_, app, submission, monkeypatch
):
    for _ in range(2):
        assert request_("POST", "/v1/builds", json=submission).status_code == 201
    app.state.engine.hosts = SimpleNamespace(last_census=Census)
    app.state.builds._machines.clear()  # another member has them
    found = Scraped(request_("GET", "/metrics").text)
    assert found.value("dcd_builds", state="queued") == 2
    assert found.value("dcd_oldest_queued_seconds") > 0

    def away(self):
        raise Unavailable("the database of the farm cannot be reached")

    monkeypatch.setattr("dcd.api.metrics.MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(SqliteLog, "unfinished", away)
    assert Scraped(request_("GET", "/metrics").text).value("dcd_builds", state="queued") == 2


def test_an_unknown_path_cannot_make_series_without_end(request_):
    for number in range(3):
        request_("GET", f"/v1/nothing-{number}")

    found = Scraped(request_("GET", "/metrics").text)

    assert found.value("dcd_requests_total", operation="unknown", status="404") == 3
    assert len(found.samples["dcd_requests_total"]) == 1


def test_health_tells_liveness_from_readiness(request_, app, monkeypatch):
    assert request_("GET", "/v1/health").status_code == 200
    full = LogFull("the disk of the event log is full", "", "free some space")
    monkeypatch.setattr(SqliteLog, "trouble", full)

    assert request_("GET", "/v1/health").status_code == 503
    assert request_("GET", "/v1/health/live").status_code == 200
    assert Scraped(request_("GET", "/metrics").text).value("dcd_event_log_available") == 0


def test_the_reference_lists_every_metric_and_the_alerts_use_no_other(request_):
    answer = request_("GET", "/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    named = set(re.findall(r"dcd_[a-z_]+", REFERENCE.read_text()))
    registry = CollectorRegistry()
    FarmMetrics(registry).show(FARM)
    text = answer.text + generate_latest(registry).decode()
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("dcd_")
    }
    alerts = set(re.findall(r"dcd_[a-z_]+", RUNBOOK.read_text()))
    suffixes = r"_(bucket|count|sum)$"
    assert alerts
    assert {re.sub(suffixes, "", name) for name in alerts} <= exposed
    assert exposed <= named
    assert {name for name in named if not name.endswith("_total")} <= exposed
