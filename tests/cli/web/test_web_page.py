"""The page in Chromium: live, hostile text, large logs, the keyboard, both colour schemes, narrow windows.

One browser serves all tests. Under the page's policy nothing may be evaluated in it by a timer, so tests wait
with `expect`.
"""

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.cli.web.conftest import Gateway, submit, writes

CHROMIUM = shutil.which("chromium")
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
AXE = (Path(__file__).parent / "axe-core" / "axe.min.js").read_text()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A sandbox of its own is not to be had for root.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Opened:
    """Pages of the gateway, and what went wrong in them."""

    def __init__(self, context: BrowserContext, gateway: Gateway) -> None:
        self.context = context
        self.gateway = gateway
        self.errors: list[str] = []

    def __call__(self, path: str = "/", url: str = "") -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        page.goto(url or self.gateway.url)
        if path != "/":
            page.evaluate("path => { location.hash = path }", path)
        return page


@pytest.fixture
def opened(browser: Browser, gateway: Gateway) -> Iterator[Opened]:
    context = browser.new_context(accept_downloads=True, locale="en-GB")
    pages = Opened(context, gateway)
    yield pages
    context.close()
    assert pages.errors == []


def violations(page: Page) -> list[str]:
    """What axe-core finds."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


def test_a_build_is_shown_live_until_it_is_completed(opened, web_daemon, tmp_path):
    page = opened()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    build = submit(
        web_daemon,
        tmp_path,
        f"echo first words; cat {gate}; echo last words",
        name="shown-live",
        arguments=writes(tmp_path),
    )
    row = page.get_by_role("listitem").filter(has_text=build)
    expect(row.get_by_text("running")).to_be_visible()
    asked: list[str] = []
    page.on(
        "request", lambda each: asked.append(each.url) if "/logs/step-1/1?" in each.url else None
    )
    page.get_by_role("link", name="shown-live").click()
    expect(page.get_by_role("heading", name="shown-live")).to_be_visible()
    log = page.get_by_role("region", name="Log")
    expect(log).to_contain_text("first words")
    expect(log).not_to_contain_text("last words")
    page.wait_for_timeout(1500)
    assert len([url for url in asked if "follow=true" in url]) == len(asked) == 1, asked
    gate.write_text("go")
    expect(log).to_contain_text("last words")
    expect(page.locator(".build-title").get_by_text("completed")).to_be_visible()
    page.get_by_role("link", name="Builds").click()
    expect(row.get_by_text("completed", exact=True)).to_be_visible()


def test_a_killed_daemon_is_said_and_no_event_is_lost(opened, web_daemon, tmp_path):
    gate = tmp_path / "gate"
    line = f"until test -e {gate}; do sleep 0.1; done"
    build = submit(web_daemon, tmp_path, line, name="killed", arguments=writes(tmp_path))
    page = opened(f"/builds/{build}")
    expect(page.locator(".build-title").get_by_text("running")).to_be_visible()
    web_daemon.wait_for_event(build, "CheckpointStarted")
    web_daemon.kill()
    expect(page.get_by_text("The daemon does not answer.")).to_be_visible()
    web_daemon.start()
    gate.touch()
    expect(page.get_by_text("The daemon does not answer.")).to_be_hidden()
    expect(page.locator(".build-title").get_by_text("completed")).to_be_visible()
    marks = page.locator(".marks").get_by_role("listitem")
    expect(marks.filter(has_text="the daemon died")).to_be_visible()
    expect(page.locator("svg .bar")).to_have_count(2)


def test_hostile_text_is_only_ever_text(opened, web_daemon, tmp_path, completed):
    hostile = "<img src=x onerror=alert(1)>\u202egnp.exe"
    script = "echo '<script>alert(1)</script><b>bold</b>'; echo '<img src=x onerror=alert(2)>' >&2; exit 1"
    build = submit(web_daemon, tmp_path, script, name="hostile")
    web_daemon.wait(build, "failed")
    page = opened(f"/builds/{build}")
    log = page.get_by_role("region", name="Log")
    expect(log.get_by_text("<script>alert(1)</script><b>bold</b>")).to_be_visible()
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("<img src=x onerror=alert(2)>")
    assert page.locator("script:not([src]), main img, main b").count() == 0
    page.evaluate("path => { location.hash = path }", f"/builds/{hostile}/log/{hostile}/{hostile}")
    expect(
        page.get_by_role("heading", name="<img src=x onerror=alert(1)>\u25a1gnp.exe", exact=True)
    ).to_be_visible()
    page.evaluate("path => { location.hash = path }", f"/builds/{completed}")
    expect(page.get_by_role("region", name="Log")).to_contain_text("ared \u25a1rtl")


def test_a_log_of_ten_megabytes_scrolls_is_searched_and_has_links(opened, web_daemon, tmp_path):
    script = "seq -f 'line %.0f of a long log, with some more words to fill it up' 1 170000"
    build = submit(web_daemon, tmp_path, script, name="long")
    web_daemon.wait(build, "completed")
    page = opened(f"/builds/{build}/log/step-1/1/120000")
    marked = page.locator(".line.marked")
    expect(marked).to_contain_text("line 120000 of a long log")
    expect(page.get_by_text("170000 lines")).to_be_visible()
    assert page.locator(".line").count() < 100
    search = page.get_by_role("searchbox", name="Search the log")
    search.fill("LINE 16999")
    expect(page.get_by_text("1 of 11")).to_be_visible()
    search.press("Enter")
    expect(page.get_by_text("2 of 11")).to_be_visible()
    expect(marked).to_contain_text("line 169990 of")
    page.get_by_role("link", name="Link to line 169992").click()
    assert page.url.endswith("/169992")


def test_who_may_only_observe_gets_no_buttons_and_hears_why(browser, guest, web_daemon, tmp_path):
    build = submit(web_daemon, tmp_path, "exit 1", name="observed")
    web_daemon.wait(build, "failed")
    with browser.new_context() as context:
        page = Opened(context, guest)(f"/builds/{build}")
        expect(page.get_by_text("you need the role operate")).to_be_visible()
        expect(page.get_by_role("button", name="Retry", exact=True)).to_be_hidden()
        page.get_by_role("link", name="Host").click()
        expect(page.get_by_text("nobody (uid 65534): observe")).to_be_visible()
        expect(page.get_by_text("for users with the role administer")).to_be_visible()


def test_without_its_token_or_with_another_the_page_says_how_to_open_it(browser, gateway, guest):
    with browser.new_context() as context:
        page = Opened(context, gateway)(url=gateway.base)
        expect(page.get_by_role("heading", name="No access")).to_be_visible()
        expect(page.get_by_text("prints an address that contains the token")).to_be_visible()
        page.goto(f"{gateway.base}#token={guest.token}")
        expect(
            page.get_by_text("The token is missing, or that of another dcctl web", exact=False).or_(
                page.get_by_text("the token is missing, or that of another dcctl web")
            )
        ).to_be_visible()
        page.goto(gateway.url)
        expect(page.get_by_role("heading", name="Builds")).to_be_visible()
        assert "token" not in page.url
        assert context.cookies() == []


def test_a_download_arrives_with_its_name_and_bytes(opened, completed, tmp_path):
    page = opened(f"/builds/{completed}")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download image.bin").click()
    assert started.value.suggested_filename == "image.bin"
    started.value.save_as(tmp_path / "image.bin")
    assert (tmp_path / "image.bin").stat().st_size == 300_000


def test_a_build_is_retried_and_removed_by_the_keyboard_alone(opened, web_daemon, tmp_path):
    build = submit(web_daemon, tmp_path, "exit 1", name="keys")
    web_daemon.wait(build, "failed")
    page = opened()
    expect(page.get_by_role("link", name="keys")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    reach(page, lambda: page.get_by_role("link", name="keys"))
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    reach(page, lambda: page.get_by_role("button", name="Retry", exact=True))
    page.keyboard.press("Enter")
    web_daemon.wait_for_event(build, "BuildResumed")
    web_daemon.wait(build, "failed")
    expect(page.get_by_text("2 attempts")).to_be_visible()
    reach(page, lambda: page.get_by_role("button", name="Cancel", exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text(f"dcctl cancel {build}")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert web_daemon.status(build)["state"] == "failed"
    reach(page, lambda: page.get_by_role("button", name="Cancel", exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="No", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    web_daemon.wait(build, "cancelled")
    expect(page.locator(".build-title").get_by_text("cancelled")).to_be_visible()


def reach(page: Page, target: Callable[[], Any]) -> None:
    """Press Tab until the element has the focus."""
    expect(target().first).to_be_visible()
    for _ in range(60):
        if target().first.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("Tab does not reach it")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 380)])
def test_every_page_fits_and_is_accessible(
    browser, gateway, web_daemon, tmp_path, completed, scheme, width
):
    failed = submit(web_daemon, tmp_path, "exit 1", name="failing")
    web_daemon.wait(failed, "failed")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    with context:
        page = Opened(context, gateway)()
        shown = {
            "/": page.get_by_role("link", name="small").first,
            f"/builds/{failed}": page.get_by_role("alert"),
            f"/builds/{completed}": page.get_by_role("button", name="Download image.bin"),
            "/host": page.get_by_role("region", name="Settings"),
            f"/compare/{failed}/{completed}": page.get_by_role("region", name="Times"),
        }
        for path, there in shown.items():
            page.evaluate("path => { location.hash = path }", path)
            expect(there).to_be_visible()
            assert violations(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(17, 20, 25)") == (scheme == "dark")


def test_many_tabs_share_a_connection_and_are_all_live(opened, web_daemon, tmp_path):
    pages = [opened() for _ in range(8)]  # a browser opens six connections to a server
    for page in pages:
        expect(page.get_by_text("live", exact=True)).to_be_visible()
    build = submit(web_daemon, tmp_path, "true", name="many-tabs")
    for page in pages:
        row = page.get_by_role("listitem").filter(has_text=build)
        expect(row.get_by_text("completed", exact=True)).to_be_visible()


def test_many_tabs_follow_a_log(opened, web_daemon, tmp_path):
    gate = tmp_path / "gate"
    line = f"echo first words; until test -e {gate}; do sleep 0.1; done; echo last words"
    build = submit(web_daemon, tmp_path, line, name="many-logs", arguments=writes(tmp_path))
    logs = [opened(f"/builds/{build}").get_by_role("region", name="Log") for _ in range(7)]
    for log in logs:
        expect(log).to_contain_text("first words")
    gate.touch()
    for log in logs:
        expect(log).to_contain_text("last words")


def test_a_link_in_another_tab_keeps_the_token(opened, completed):
    page = opened()
    with opened.context.expect_page() as other:
        page.get_by_role("listitem").filter(has_text=completed).get_by_role("link").click(
            modifiers=["Control"]
        )
    expect(other.value.get_by_role("button", name="Download image.bin")).to_be_visible()


def test_screens_and_consoles_of_guests_are_shown_while_they_boot(opened, web_daemon, tmp_path):
    build = submit(web_daemon, tmp_path, "sleep 600", name="boots")
    web_daemon.wait_for_event(build, "CheckpointStarted")
    evidence = web_daemon.state_dir / "logs" / build / "step-1.1"
    evidence.mkdir(parents=True, exist_ok=True)
    (evidence / "uefi.log").write_text("Loading Linux ...\n")
    (evidence / "uefi.png").write_bytes(PICTURE)
    page = opened(f"/builds/{build}")
    console = page.get_by_role("region", name="Console: uefi.log")
    expect(console).to_contain_text("Loading Linux ...")
    expect(page.get_by_role("img", name="Screen: uefi.png")).to_be_visible()
    with (evidence / "uefi.log").open("a") as log:
        log.write("\x1b[1m<script>login:</script>\x1b[0m")
    expect(console).to_contain_text("<script>login:</script>")
    web_daemon.ctl("cancel", build)


def test_the_members_of_a_farm_are_shown_with_what_runs_there_and_why_builds_wait(
    browser, gateway, web_daemon, tmp_path
):
    running = submit(web_daemon, tmp_path, "sleep 600", name="placed")
    web_daemon.wait_for_event(running, "CheckpointStarted")
    hosts = [
        {"host": "build1", "state": "up", "labels": ["amd64", "tool:cp"], "builds": [running],
         "silent_seconds": 1.0, "warnings": ["its clock is 90 s ahead of the database's"]},
        {"host": "<b>build2</b>", "state": "lost", "labels": ["arm64"], "builds": [], "silent_seconds": None},
    ]  # fmt: skip
    viewport = {"width": 380, "height": 800}
    with browser.new_context(color_scheme="dark", viewport=viewport) as context:
        context.route(
            "**/v1/hosts", lambda route: route.fulfill(json={"hosts": hosts, "waits": []})
        )
        page = Opened(context, gateway)()
        row = page.get_by_role("listitem").filter(has_text=running)
        expect(row.get_by_text("on build1")).to_be_visible()
        page.get_by_role("link", name="Host", exact=True).click()
        members = page.get_by_role("region", name="Members")
        expect(members.get_by_role("link", name="placed")).to_be_visible()
        expect(members).to_contain_text("its clock is 90 s ahead of the database's")
        expect(members).to_contain_text("<b>build2</b>")
        expect(members).not_to_contain_text("tool:cp")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
    web_daemon.ctl("cancel", running)


def test_a_queued_build_says_why_no_member_takes_it(opened, web_daemon, tmp_path):
    build = submit(web_daemon, tmp_path, "true", name="waiting")
    web_daemon.wait(build, "completed")
    wait = {"build": build, "labels": "kvm", "obstacle": "labels", "reason": "no member has kvm"}
    host = {"host": "build1", "state": "up", "labels": [], "builds": [], "silent_seconds": 1.0}

    def queued(route: Any) -> None:
        page_of = route.fetch().json()
        for each in page_of["builds"]:
            each["state"] = "queued" if each["id"] == build else each["state"]
        route.fulfill(json=page_of)

    opened.context.route("**/v1/builds?*", queued)
    opened.context.route(
        "**/v1/hosts", lambda route: route.fulfill(json={"hosts": [host], "waits": [wait]})
    )
    row = opened().get_by_role("listitem").filter(has_text=build)
    expect(row.get_by_text("waits: no member has kvm")).to_be_visible()
