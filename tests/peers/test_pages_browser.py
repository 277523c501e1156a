"""The pages in a real browser: sign in, the finding that rises by itself, the study, the word about it, the dead letter; both languages,
both themes, a phone; nothing that axe objects to, nothing that the policy refuses, nothing from elsewhere."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dicom_node.accounts import hashed
from storage import accounts
from storage.visibility import Limits
from tests.node import PLAIN, StepNode, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.npm import package
from tests.tiny_bundle import tiny_bundle
from tests.webserver import WebNode, serving

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.peer("npm"), pytest.mark.xdist_group("browser")]

AXE = ("axe-core", "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==")
SCREENSHOTS = Path(os.environ.get("DICOM_NODE_SCREENSHOTS") or Path(__file__).resolve().parents[2] / "build" / "screenshots")
PASSWORD = "correct horse battery"
ALERT = '\n[[alert]]\nurgency = "critical"\nname = "Volume"\nabove = 0.001\n'
WEIGHT = 300_000  # bytes of a page with everything it loads
NOTED = "window.noted = []; document.addEventListener('securitypolicyviolation', (event) => window.noted.push(event.violatedDirective))"


@dataclass
class Site:
    """A served node, and a browser before it."""

    node: StepNode
    web: WebNode
    browser: Browser
    folder: Path
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web.port}"

    def page(self, *, width: int = 1280, theme: Any = "light", locale: str = "en-GB") -> Page:
        context = self.browser.new_context(viewport={"width": width, "height": 850}, color_scheme=theme, locale=locale, base_url=self.url)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.add_init_script(NOTED)
        page.on("request", lambda request: None if request.url.startswith((self.url, "data:")) else self.foreign.append(request.url))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def signed_in(self, **how: Any) -> Page:
        page = self.page(**how)
        page.goto("/")
        page.locator("#name").fill("ada")
        page.locator("#password").fill(PASSWORD)
        page.locator("main form button").click()
        page.wait_for_url(re.compile(r":\d+/$"))
        return page

    def receive(self, name: str, number: int) -> str:
        """A study comes, is run, and its delivery fails."""
        images = bright_series()
        for image in images:
            image.SpecificCharacterSet = "ISO_IR 192"
            image.PatientName, image.PatientID, image.StudyDescription = name, f"P{number}", "Head"
        assert set(send(self.node, images, self.folder / str(number))) == {0}
        self.node.work()
        self.node.duties.reclaim_jobs()
        return uid_of(images)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("node")
    bundle = tiny_bundle(folder / "bundles")
    with (bundle / "dicom.toml").open("a") as stream:
        stream.write(ALERT)
    plain = PLAIN.replace("[delivery]", "[delivery]\nattempts = 1").replace("[web]\n", "[web]\nsign_in = true\n")
    config = settings(folder, plain=plain, more=peer("pacs", 1) + rule("pacs"))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with running(config) as node, serving(config) as web, sync_playwright() as playwright:
        with web.node.database.begin() as connection:
            accounts.add(connection, "ada", hashed("ada", PASSWORD), "administrator", Limits(), actor="test")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            yield Site(node, web, browser, folder)
        finally:
            browser.close()


def test_a_finding_rises_by_itself_is_rejected_and_becomes_a_label(site: Site, tmp_path: Path) -> None:
    site.receive("Doe^Jane", 1)
    page = site.signed_in()
    expect(page.locator("[data-live]")).to_have_attribute("data-state", "on")
    expect(page.locator("tbody tr")).to_have_count(1)
    site.receive("王^小明", 2)
    expect(page.locator("tbody tr")).to_have_count(2)
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("王")
    expect(first.locator(".c-urgency")).to_contain_text("critical")
    expect(first.locator(".c-deliveries")).to_contain_text("failed")
    page.screenshot(path=SCREENSHOTS / "worklist.png")
    first.locator("a.open").click()
    expect(page.locator("h1")).to_contain_text("王")
    page.screenshot(path=SCREENSHOTS / "study.png")
    page.locator("summary[aria-label*='Volume']").click()
    opened = page.locator(".judge details.popup[open]")
    opened.locator("select[name=code]").select_option("wrong_value")
    opened.locator("textarea").fill("far too small")
    opened.get_by_role("button", name="Reject").click()
    expect(page.locator(".word")).to_contain_text("far too small")
    assert page.evaluate("window.noted") == []
    out = tmp_path / "export"
    query = "PatientID=P2&Modality=MR&task=segmentation&classes=Bright"
    done = command(site.web.node.config, "data", "export", "--query", query, "--feedback", "reject", "--out", str(out))
    assert done.returncode == 0, done.stderr
    (row,) = list(csv.DictReader((out / "feedback.csv").read_text().splitlines()))
    assert (row["finding"], row["verdict"], row["reason"]) == ("measurement:Bright:Volume", "reject", "wrong_value")
    assert "P2" not in (out / "manifest.jsonl").read_text()


def test_it_is_searched_and_walked_from_the_keyboard(site: Site) -> None:
    site.receive("Müller^Jürgen<b>", 3)
    site.receive("محمد^علي", 4)
    page = site.signed_in()
    page.keyboard.press("/")
    page.keyboard.type("muller")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("Jürgen<b>")
    page.keyboard.press("Escape")
    expect(page.locator("tbody tr").nth(1)).to_be_visible()
    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/studies/"))


def test_a_dead_letter_is_retried(site: Site) -> None:
    site.receive("Roe^Richard", 5)
    page = site.signed_in()
    page.goto("/jobs")
    page.screenshot(path=SCREENSHOTS / "jobs.png")
    before = page.locator("tbody tr").count()
    assert before
    page.locator("#reason").fill("the PACS is back")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status").filter(has_text="tried again")).to_be_visible()
    site.node.work()


PAGES = ("/", "/jobs", "/jobs?state=", "/peers", "/models", "/system", "/nothing-here")


@pytest.mark.parametrize(("theme", "locale", "width"), [("light", "en-GB", 1280), ("dark", "zh-CN", 390)])
def test_every_page_is_accessible_light_and_at_home(site: Site, theme: str, locale: str, width: int) -> None:
    uid = site.receive("山田^太郎", 6)
    axe = (package(*AXE) / "axe.min.js").read_text()
    page = site.signed_in(theme=theme, locale=locale, width=width)
    problems = []
    for path in (*PAGES, f"/studies/{uid}"):
        sizes: list[int] = []
        page.on("response", lambda answer, sizes=sizes: sizes.append(int(answer.headers.get("content-length", 0))))
        page.goto(path)
        page.wait_for_load_state("load")
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })")
        problems += [(path, each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]]
        assert page.evaluate("document.documentElement.lang") == ("en" if locale == "en-GB" else "zh-Hans")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{path} is wider than the screen"
        assert page.evaluate("window.noted") == [], path
        assert sum(sizes) < WEIGHT, path
        name = path.strip("/?=").split("/")[0].split("?")[0] or "worklist"
        page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png", full_page=True)
    page.goto("/")
    page.locator("details.popup summary").first.click()
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    with site.web.node.database.begin() as connection:
        accounts.prefer(connection, accounts.get(connection, "ada").pk, language=None)
    assert problems == []
    assert site.foreign == []
