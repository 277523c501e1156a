"""The pages in a real browser: sign in, the finding that rises by itself, the study, the word about it, the dead letter; both languages,
both themes, a phone; nothing that axe objects to, nothing that the policy refuses, nothing from elsewhere."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from storage import accounts
from tests.browser import PASSWORD, SCREENSHOTS, Site, configured, opened
from tests.node import command
from tests.npm import package

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.peer("npm"), pytest.mark.xdist_group("browser")]

AXE = ("axe-core", "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==")
WEIGHT = 300_000  # bytes of a page with everything it loads


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("node")
    with opened(folder, configured(folder)) as made:
        yield made


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


def test_a_token_is_made_on_ones_own_page_and_an_account_by_an_administrator(site: Site) -> None:
    page = site.signed_in()
    page.locator(".side details.popup").last.locator("summary").click()
    page.get_by_role("link", name="Your account").click()
    page.get_by_text("Make a token").click()
    page.get_by_label("What it is for").fill("backup")
    page.locator("#password-token").fill(PASSWORD)
    page.get_by_role("button", name="Make the token").click()
    expect(page.locator("code.secret")).to_have_text(re.compile("dcmn_"))
    page.screenshot(path=SCREENSHOTS / "account-token.png", full_page=True)
    page.get_by_role("button", name="Take away: backup").click()
    expect(page.get_by_role("status").filter(has_text="taken away")).to_be_visible()
    page.goto("/accounts")
    page.get_by_text("Make an account").click()
    for label, value in (("Name", "cy"), ("New password", PASSWORD), ("New password, once more", PASSWORD)):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Only studies with these modalities").fill("CT")
    page.get_by_role("button", name="Make the account").click()
    expect(page.locator("h1")).to_have_text("cy")
    expect(page.locator(".head")).to_contain_text("radiologist; only studies with a series of CT")
    assert page.evaluate("window.noted") == []
    site.signed_in("cy")


PAGES = ("/", "/jobs", "/jobs?state=", "/peers", "/models", "/system", "/account", "/accounts", "/accounts/2", "/nothing-here")


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
        name = path.strip("/?=").replace("/", "-").split("?")[0] or "worklist"
        page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png", full_page=True)
    page.goto("/")
    page.locator("details.popup summary").first.click()
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    with site.web.node.database.begin() as connection:
        accounts.prefer(connection, accounts.get(connection, "ada").pk, language=None)
    assert problems == []
    assert site.foreign == []
