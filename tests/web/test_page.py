"""The status page in a real browser: live, through a restart, with the keyboard, on a phone, and axe-core's checks."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from axomsync.core.records import ModelState, UploadState
from axomsync.drop.rules import LeftAlone, Rule, document
from tests.rig.agent import AgentProcess
from tests.rig.browser import chromium
from tests.rig.faults import KEY, FaultyServer
from tests.web.scenes import SCENES, shown, staged


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without complaints: a broken policy or script would show on the browser's console."""
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text and "ERR_INCOMPLETE" not in message.text:
            complaints.append(message.text)

    page = browser.new_page(reduced_motion="reduce")
    page.set_default_timeout(15_000)
    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#link-words")).to_have_text("live")
    expect(page.locator("#version")).not_to_be_empty()


@pytest.mark.parametrize("scene", SCENES)
def test_axe_core_has_no_finding_in_light_and_dark_at_any_width(page: Page, scene: str, tmp_path: Path) -> None:
    with shown(tmp_path, scene) as url:
        open_page(page, url)
        for scheme, width in (("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": width, "height": 800})
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, "it scrolls sideways"


def test_page_follows_changes(page: Page, tmp_path: Path) -> None:
    with staged(tmp_path, "empty") as stage, stage.page() as url:
        open_page(page, url)
        expect(page.locator("#headline")).to_have_text("All is well")
        expect(page.locator("#drop-left")).to_be_hidden()
        left = LeftAlone()
        left.add(Rule.SYMLINK, b"a.jsonl")
        left.add(Rule.HIDDEN, b".git", is_folder=True)
        stage.ledger.set_facts(left_alone=json.dumps(document(left)))
        expect(page.locator("#drop-left")).to_have_text("2 left alone")
        expect(page.locator("#drop-left")).to_have_attribute("title", re.compile(r"hidden: \.git/; rename"))
        stage.upload("notes.jsonl", 2_000_000, UploadState.REJECTED, "line 3: not valid JSON")
        expect(page.locator("#uploads")).to_contain_text("notes.jsonl")
        expect(page.locator("#uploads .state")).to_have_text("rejected")
        stage.upload("b.jsonl", 2_000_000, UploadState.UPLOADED)
        stage.upload("c.jsonl", 2_000_000, UploadState.UPLOADED)
        expect(page.locator("#uploads")).to_contain_text("chat, 1000 examples · ")
        expect(page.locator("#uploads")).to_contain_text("chat, 1000 examples, 1 finding · ")
        expect(page.locator("#mirror-trials")).to_be_hidden()
        stage.model("bot", "v2", "2026", ModelState.PUBLISHED)
        stage.ledger.execute("UPDATE models SET path = '/m/bot/v2' WHERE id = 'bot-v2'").result()
        stage.ledger.record_current("/m/bot", "bot-v2", told=False, trial=True, guarded=True)
        expect(page.locator("#mirror-trials")).to_have_text("bot/v2 on trial")
        stage.ledger.plan_check("/m/bot", "bot-v2", time.time() + 300, time.time() + 10, None)
        expect(page.locator("#mirror-trials")).to_contain_text("bot/v2 on trial, ends in 5 min")
        stage.problems.report("console", "the console refuses the API key; rotate it")
        expect(page.locator("#headline")).to_contain_text("problem")
        expect(page.locator("#problems")).to_contain_text("the console refuses the API key; rotate it")
        stage.model("<img src=x onerror=alert(1)>", "v1", "2026", ModelState.WAITING, "the console says: training")
        expect(page.locator("#models")).to_contain_text("<img src=x onerror=alert(1)>")
        assert page.locator("#models img").count() == 0


def test_page_survives_a_restart_of_the_agent(page: Page, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {"web": {"listen": f"127.0.0.1:{port}"}}
    with FaultyServer() as server, AgentProcess(tmp_path, server.url, KEY, config) as agent:
        agent.start()
        for _ in range(100):
            try:
                open_page(page, f"http://127.0.0.1:{port}/")
                break
            except Exception as refused:  # not listening yet
                if "ERR_CONNECTION_REFUSED" not in str(refused):
                    raise
        agent.kill()
        expect(page.locator("#headline")).to_have_text("No connection to the agent")
        agent.start()
        expect(page.locator("#link-words")).to_have_text("live")
        (agent.drop / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
        expect(page.locator("#uploads .state")).to_have_text("uploaded")
        expect(page.locator("#events")).to_contain_text("uploaded")
        agent.kill()


def test_page_works_with_the_keyboard_alone(page: Page, tmp_path: Path) -> None:
    with shown(tmp_path, "busy") as url:
        open_page(page, url)
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.locator("#chart").focus()
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#readout")).to_contain_text("ago")
        page.keyboard.press("Escape")
        expect(page.locator("#readout")).to_be_empty()
        rows = page.locator("#events > li")
        few = rows.count()
        page.locator("#events-more").focus()
        page.keyboard.press("Enter")
        assert rows.count() > few
        expect(page.locator("#events-more")).to_have_attribute("aria-expanded", "true")
        bar = page.get_by_role("progressbar", name="download of support-qa-70b/v1")
        expect(bar).to_have_attribute("aria-valuenow", "43")
