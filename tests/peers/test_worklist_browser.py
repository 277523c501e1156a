"""The worklist in a real browser: how soon it shows what happens, its filters, two people at once, and a server that restarts under it."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import Site, configured, opened, people
from tests.node import running
from tests.webserver import serving
from tests.worklist import COLLAPSE, add, ended, started

pytestmark = [pytest.mark.peer("chromium"), pytest.mark.xdist_group("browser")]

# When each study was on the page first, and when it stood there as critical, in the page's own time.
WATCH = """
window.shown = {}; window.critical = {};
new MutationObserver(() => {
  for (const row of document.querySelectorAll("#worklist tbody tr")) {
    const uid = row.querySelector(".open").getAttribute("href").split("/").pop();
    window.shown[uid] ??= Date.now() / 1000;
    if (row.dataset.level === "critical") window.critical[uid] ??= Date.now() / 1000;
  }
}).observe(document.getElementById("worklist"), { childList: true, subtree: true, attributes: true });
"""
LIVE, RISEN = 1.0, 2.0  # seconds that are promised


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("node")
    with opened(folder, configured(folder)) as made:
        yield made


def live(page: Page) -> Page:
    expect(page.locator("[data-live]")).to_have_attribute("data-state", "on")
    return page


def since(page: Page, what: str, uid: str, at: float) -> float:
    """Seconds from a moment until the page showed it."""
    level = "[data-level=critical]" if what == "critical" else ""
    expect(page.locator(f"#worklist tr{level}:has(a[href='/studies/{uid}'])")).to_be_visible()
    return float(page.evaluate(f"window.{what}['{uid}']")) - at


def test_what_happens_is_on_the_page_within_a_second_and_a_critical_finding_within_two(site: Site) -> None:
    page = live(site.signed_in())
    page.evaluate(WATCH)
    arrivals, rises = [], []
    for number in range(1, 6):
        began = time.time()
        uid = add(site.web.node.database, number, f"Doe^Number{number}", "CT", "Chest", at=began)
        arrivals.append(since(page, "shown", uid, began))
        run = started(site.web.node.database, uid, "chest")
        began = time.time()
        ended(site.web.node.database, run, COLLAPSE, began, uid)
        rises.append(since(page, "critical", uid, began))
    assert sorted(arrivals)[2] < LIVE, arrivals
    assert max(rises) < RISEN, rises
    expect(page.locator("tbody tr").first).to_contain_text("Pneumothorax")
    assert page.title().startswith("(5) ")


def test_the_quick_filters_show_what_they_say(site: Site) -> None:
    calm = add(site.web.node.database, 50, "Calm^Carl", "MR", "Head", at=time.time())
    urgent = add(site.web.node.database, 51, "Urgent^Ulla", "CT", "Chest", at=time.time())
    ended(site.web.node.database, started(site.web.node.database, urgent, "chest"), COLLAPSE, time.time(), urgent)
    page = live(site.signed_in())
    rows = page.locator("#worklist tbody tr")
    expect(rows.filter(has_text="Carl")).to_have_count(1)
    quick = page.get_by_role("navigation", name="Quick filters")
    quick.get_by_role("link", name=re.compile("^Critical")).click()
    expect(rows.filter(has_text="Carl")).to_have_count(0)
    expect(rows.filter(has_text="Ulla")).to_have_count(1)
    assert "show=critical" in page.url
    rows.filter(has_text="Ulla").get_by_role("button", name=re.compile("^Read")).click()
    rows.filter(has_text="Ulla").get_by_role("button", name=re.compile("^Mark as read")).click()
    expect(rows.filter(has_text="Ulla")).to_have_count(0)  # it was read: it leaves the list of what is critical
    quick.get_by_role("link", name=re.compile("^All")).click()
    expect(rows.filter(has_text="Carl")).to_have_count(1)
    page.locator("select[name=modality]").select_option("MR")
    expect(rows.filter(has_text="Ulla")).to_have_count(0)
    expect(rows.filter(has_text="Carl")).to_have_count(1)
    assert page.locator(f"a[href='/studies/{calm}']").count() == 1


def test_a_change_that_comes_while_a_filter_is_fetched_does_not_put_the_old_list_back(site: Site) -> None:
    database = site.web.node.database
    add(database, 55, "Wanted^Wim", "US", "Abdomen", at=time.time())
    add(database, 56, "Other^Olga", "CT", "Chest", at=time.time())
    page = live(site.signed_in())
    rows = page.locator("#worklist tbody tr")
    expect(rows.filter(has_text="Olga")).to_have_count(1)
    asked: list[str] = []

    def held(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 1:  # the first one is never answered: what comes next is all that the page will learn
            route.continue_()

    page.route(re.compile(r"/worklist/rows\?.*modality=US"), held)
    with page.expect_request(re.compile(r"modality=US")):
        page.locator("select[name=modality]").select_option("US")
    add(database, 57, "Later^Lena", "CT", "Chest", at=time.time())
    expect(rows.filter(has_text="Olga")).to_have_count(0)
    expect(rows.filter(has_text="Lena")).to_have_count(0)
    expect(rows.filter(has_text="Wim")).to_have_count(1)
    expect(page.locator("[data-toasts] .toast")).to_have_count(0)
    assert len(asked) == 2
    assert "modality=US" in page.url


def test_a_form_that_is_opened_while_the_study_page_is_fetched_stays_open(site: Site) -> None:
    database = site.web.node.database
    uid = add(database, 58, "Form^Fred", "CT", "Chest", at=time.time())
    ended(database, started(database, uid, "chest"), COLLAPSE, time.time(), uid)
    page = site.signed_in()
    page.goto(f"/studies/{uid}")
    live(page)
    held: list[Route] = []
    page.route(re.compile(r"/story$"), lambda route: held.append(route))
    with page.expect_request(re.compile(r"/story$")):
        started(database, uid, "another")
    form = page.locator(".judge details.popup").first
    form.locator("summary").click()
    form.locator("textarea").fill("half a sentence")
    held[0].continue_()
    expect(page.locator("[data-offer]")).to_be_visible()
    expect(form.locator("textarea")).to_have_value("half a sentence")
    page.unroute_all(behavior="ignoreErrors")
    page.locator("[data-offer] button").click()
    expect(page.locator("[data-live-body]")).to_contain_text("another")


def test_two_people_who_take_one_study_both_see_it(site: Site) -> None:
    uid = add(site.web.node.database, 60, "Shared^Sam", "CT", "Chest", at=time.time())
    ada, ben = live(site.signed_in()), live(site.signed_in("ben"))
    of_ada, of_ben = (page.locator("#worklist tbody tr").filter(has_text="Sam") for page in (ada, ben))
    expect(of_ben.get_by_role("button", name=re.compile("^Read"))).to_be_visible()
    of_ada.get_by_role("button", name=re.compile("^Read")).click()
    expect(of_ben).to_contain_text("ada is reading")
    expect(of_ben.get_by_role("button")).to_have_count(0)
    held = ben.request.post(
        f"/worklist/{uid}/reading",
        form={"to": "reading", "seen": "open"},
        headers={"X-CSRF-Token": ben.locator("meta[name=csrf-token]").get_attribute("content") or ""},
    )
    assert (held.status, held.json()) == (409, {"error": "ada is reading this study already."})
    of_ada.get_by_role("button", name=re.compile("^Mark as read")).click()
    expect(of_ben).to_contain_text("read by ada")


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_page_survives_a_restart_of_the_server_under_it(site: Site, tmp_path: Path) -> None:
    config = configured(tmp_path, port=free_port())
    with running(config) as node:
        people(node)
        with serving(config) as web:
            page = live(Site(node, web, site.browser, tmp_path).signed_in())
            first = add(node.node.database, 1, "Before^Bea", "CT", "Chest", at=time.time())
            expect(page.locator(f"a[href='/studies/{first}']")).to_have_count(1)
            other = page.context.new_page()
            other.goto(f"/studies/{first}")
            live(other)
        expect(page.locator("[data-live]")).to_have_attribute("data-state", "off")
        while_away = add(node.node.database, 2, "While^Away", "CT", "Chest", at=time.time())
        ended(node.node.database, started(node.node.database, first, "chest"), COLLAPSE, time.time(), first)
        with serving(config):
            live(page)
            expect(page.locator(f"a[href='/studies/{while_away}']")).to_have_count(1)
            expect(page.locator("#worklist tbody tr").first).to_contain_text("Pneumothorax")
            live(other)
            expect(other.locator("[data-live-body]")).to_contain_text("Pneumothorax")
            after = add(node.node.database, 3, "After^Anna", "CT", "Chest", at=time.time())
            expect(page.locator(f"a[href='/studies/{after}']")).to_have_count(1)


def test_a_page_whose_session_ended_asks_who_is_there(site: Site) -> None:
    page = live(site.signed_in("ben"))
    other = page.context.new_page()
    other.goto("/")
    other.locator("details.popup summary").last.click()
    other.get_by_role("button", name="Sign out").click()
    add(site.web.node.database, 70, "Later^Lea", "CT", "Chest", at=time.time())
    page.wait_for_url(re.compile("/sign-in"))
