"""The worklist over a real server: rows, search, filters, pages, who reads what, and the stream of events with its limits."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from dicom_node.accounts import hashed
from dicom_node.web.pages import events
from dicom_node.web.pages.site import POLICY
from storage import accounts, worklist_upkeep
from storage.schema import audit, instance, series, study
from storage.visibility import Limits
from tests.dimse import until
from tests.webserver import WebNode, configured, serving
from tests.worklist import COLLAPSE, HOSTILE, add, ended, started

PASSWORD = "correct horse battery"
PAGE = {"Accept": "text/html"}
TURNING = re.compile(r"[\u202a-\u202e\u2066-\u2069\u0000-\u0008\u000b\u000c\u000e-\u001f]")
PEOPLE = {"ann": Limits(), "bob": Limits(), "mr": Limits(modalities=("MR",))}
NAMES = {1: "Müller^Jörg", 2: "Yamada^Tarou=山田^太郎=やまだ^たろう", 3: "محمد^علي", 4: "王^小明", 5: HOSTILE}


@pytest.fixture(scope="module")
def kept() -> dict[str, str]:
    return {name: hashed(name, PASSWORD) for name in PEOPLE}


@pytest.fixture
def web(tmp_path: Path, kept: dict[str, str]) -> Iterator[WebNode]:
    with serving(configured(tmp_path, web="sign_in = true")) as node:
        with node.node.database.begin() as connection:
            for name, limits in PEOPLE.items():
                accounts.add(connection, name, kept[name], "radiologist", limits, actor="test")
        yield node


@contextlib.contextmanager
def signed_in(web: WebNode, name: str = "ann") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{web.port}", timeout=20, headers=PAGE) as browser:
        assert browser.post("/sign-in", data={"name": name, "password": PASSWORD}).status_code == 303
        page = browser.get("/").text
        browser.headers["X-CSRF-Token"] = page.split('name="csrf-token" content="')[1].split('"')[0]
        yield browser


def fill(web: WebNode) -> dict[int, str]:
    """Studies with names of many scripts, the second an MR with something critical in it."""
    now = time.time()
    found = {}
    for number, name in NAMES.items():
        modality = "MR" if number == 2 else "CT"
        found[number] = add(web.node.database, number, name, modality, f"Study \u202e{number}", at=now - 60 * number, sex="O")
    ended(web.node.database, started(web.node.database, found[2], "chest"), COLLAPSE, now, found[2])
    return found


def rows(browser: httpx.Client, query: str = "") -> list[str]:
    """The studies of a page of the list, in order."""
    answer = browser.get(f"/worklist/rows{query}")
    assert answer.status_code == 200, answer.text
    return list(dict.fromkeys(re.findall(r'href="/studies/([0-9.]+)"', answer.text)))


def test_the_list_is_searched_filtered_sorted_and_paged(web: WebNode) -> None:
    found = fill(web)
    with signed_in(web) as browser:
        assert rows(browser) == [found[2], found[1], found[3], found[4], found[5]]
        assert rows(browser, "?q=muller") == rows(browser, "?q=M%C3%9CLLER") == [found[1]]
        assert rows(browser, "?q=山田") == rows(browser, "?q=tarou+yamada") == rows(browser, "?modality=MR") == [found[2]]
        assert rows(browser, "?q=محمد") == [found[3]]
        assert rows(browser, "?q=王") == [found[4]]
        assert rows(browser, "?q=nobody") == []
        assert rows(browser, "?show=critical") == rows(browser, "?show=urgent") == [found[2]]
        assert rows(browser, "?show=failed") == rows(browser, "?show=running") == []
        assert rows(browser, "?sort=age&order=asc") == [found[number] for number in (5, 4, 3, 2, 1)]
        for odd in ("sort=nothing", "order=up", "show=all", "since=ever", "after=x", "after=-1", f"q={'a' * 500}", "modality=%00"):
            assert browser.get(f"/worklist/rows?{odd}").status_code in (200, 400), odd
    with signed_in(web, "mr") as limited:
        assert rows(limited) == [found[2]]
        assert "MR" in limited.get("/").text


def test_pages_of_a_long_list_go_on_and_back(web: WebNode) -> None:
    uids = [add(web.node.database, number, f"N{number:03}", "CT", "Chest", at=1000.0 - number) for number in range(120)]
    with signed_in(web) as browser:
        listed, address = [], "/worklist/rows?since="
        for _ in range(4):
            answer = browser.get(address)
            listed += list(dict.fromkeys(re.findall(r'href="/studies/([0-9.]+)"', answer.text)))
            later = [unescape(each) for each in re.findall(r'href="(/\?[^"]*)"', answer.text) if "after=" in each]
            if not later:
                break
            address = later[0].replace("/?", "/worklist/rows?")
        assert listed == uids


@pytest.mark.parametrize("path", ["/", "/worklist/rows", "/studies/1.2.826.0.1.5", "/studies/1.2.826.0.1.2", "/studies/1.2.826.0.1.3"])
def test_names_stay_text_and_keep_to_themselves(web: WebNode, path: str) -> None:
    fill(web)
    with signed_in(web) as browser:
        answer = browser.get(path)
        assert answer.status_code == 200
        assert "<img src=x" not in answer.text
        assert not TURNING.search(answer.text)
        if path.endswith("rows"):
            assert "&lt;img src" in answer.text  # the equals sign ends the first group of a name
        else:
            assert answer.headers["content-security-policy"] == POLICY
        for name in ("محمد", "山田"):
            for before in re.findall(rf"(<[^<>]*>)[^<>]*{name}", answer.text):
                assert before.startswith(("<bdi", "<title", "<option", "<span class=\"visually-hidden", "<a", "<h1")), before


def read(browser: httpx.Client, uid: str, to: str, **seen: str) -> httpx.Response:
    return browser.post(f"/worklist/{uid}/reading", data={"to": to, **seen}, headers={"Accept": "application/json"})


def test_two_people_act_on_one_study_and_both_see_it(web: WebNode) -> None:
    uid = fill(web)[2]
    with signed_in(web) as ann, signed_in(web, "bob") as bob:
        raised = re.findall(r'name="raised" value="([^"]+)"', ann.get("/worklist/rows?show=critical").text)[0]
        assert read(ann, uid, "reading", seen="open", raised=raised).status_code == 303
        assert "ann is reading" in bob.get("/worklist/rows").text
        late = read(bob, uid, "reading", seen="open", raised=raised)
        assert (late.status_code, late.json()) == (409, {"error": "ann is reading this study already."})
        assert read(ann, uid, "reviewed", seen="reading", raised=raised).status_code == 303
        late = read(bob, uid, "reading", seen="open", raised=raised)
        assert (late.status_code, late.json()) == (409, {"error": "ann has read this study in the meantime."})
        assert "read by ann" in bob.get("/worklist/rows").text
        bob.headers["Accept-Language"] = "zh"
        page = bob.post(f"/worklist/{uid}/reading", data={"to": "reading", "seen": "open"})
        assert (page.status_code, "ann 在此期间已阅读此检查。" in page.text) == (409, True)
        bob.headers["Accept-Language"] = "en"
        assert read(bob, uid, "open", seen="reviewed").status_code == 303
        assert read(bob, uid, "reading", seen="open").status_code == 303
        ended(web.node.database, started(web.node.database, uid, "second"), COLLAPSE, time.time(), uid)
        late = read(bob, uid, "reviewed", seen="reading", raised=raised)
        assert (late.status_code, "urgent" in late.json()["error"]) == (409, True)
        assert read(bob, uid, "nothing").status_code == 400
        assert read(bob, uid, "open", seen="reading", raised="soon").status_code == 400
        assert read(bob, "1.2.3", "open").status_code == 404
    with signed_in(web, "mr") as limited:
        assert read(limited, fill_one(web), "reading").status_code == 404


def fill_one(web: WebNode) -> str:
    return add(web.node.database, 99, "Hidden^One", "CT", "Chest", at=time.time())


# --- events


class Listener:
    """A page that listens, in a thread of its own."""

    def __init__(self, browser: httpx.Client, last: str = "") -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.status = 0
        self._browser, self._last = browser, last
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        until(lambda: self.status > 0)

    def _listen(self) -> None:
        headers = {"Last-Event-ID": self._last} if self._last else {}
        with contextlib.suppress(httpx.HTTPError), self._browser.stream("GET", "/events", headers=headers, timeout=60) as answer:
            self.type = answer.headers.get("content-type", "")
            self.status = answer.status_code
            event: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name in ("id", "event", "data"):
                    event[name] = value
                elif not line and "event" in event:
                    self.events.append((event.get("id", ""), event["event"], json.loads(event["data"])))
                    event = {}

    def of(self, uid: str) -> list[str]:
        return [kind for _, _, data in self.events if data.get("study") == uid for kind in data["kinds"]]


def test_pages_are_told_in_order_and_who_comes_back_misses_nothing(web: WebNode) -> None:
    with signed_in(web) as browser, signed_in(web, "bob") as other:
        listener = Listener(browser)
        assert (listener.status, listener.type.partition(";")[0]) == (200, "text/event-stream")
        began = time.monotonic()
        first = add(web.node.database, 1, "One^A", "CT", "Chest", at=time.time())
        until(lambda: "study" in listener.of(first))
        assert time.monotonic() - began < 3
        mark = listener.events[-1][0]
        second = add(web.node.database, 2, "Two^B", "CT", "Chest", at=time.time())
        run = started(web.node.database, first, "chest")
        ended(web.node.database, run, COLLAPSE, time.time(), first)
        until(lambda: "finding" in listener.of(first))
        numbers = [int(number) for number, _, _ in listener.events]
        assert numbers == sorted(set(numbers))
        assert not any("One" in json.dumps(data) for _, _, data in listener.events)
        back = Listener(other, mark)
        until(lambda: "finding" in back.of(first) and "study" in back.of(second))
        assert [int(number) for number, _, _ in back.events] == [number for number in numbers if number > int(mark)]
        lost = Listener(other, "999999999")
        until(lambda: [kind for _, kind, _ in lost.events] == ["reset"])
        odd = Listener(other, "x")
        until(lambda: [kind for _, kind, _ in odd.events] == ["reset"])


def test_who_is_limited_hears_of_own_studies_and_that_something_is_gone(web: WebNode) -> None:
    with signed_in(web, "mr") as browser, signed_in(web) as all_of_it:
        limited, free = Listener(browser), Listener(all_of_it)
        hidden = add(web.node.database, 1, "One^A", "CT", "Chest", at=time.time())
        shown = add(web.node.database, 2, "Two^B", "MR", "Head", at=time.time())
        until(lambda: "study" in limited.of(shown) and "study" in free.of(hidden))
        assert limited.of(hidden) == []
        with web.node.database.begin() as connection:
            for table in (instance, series, study):
                connection.execute(delete(table))
        until(lambda: "deleted" in free.of(hidden) and "deleted" in limited.of(""))
        assert limited.of(hidden) == []
        assert rows(browser) == []


def test_too_many_pages_of_one_account_are_told_to_come_again(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_OF_ONE", 2)
    with signed_in(web) as browser, signed_in(web, "bob") as other:
        for _ in range(2):
            assert Listener(browser).status == 200
        refused = Listener(browser)
        assert refused.status == 503
        assert Listener(other).status == 200


def test_whatever_goes_wrong_while_it_looks_the_stream_goes_on(web: WebNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with signed_in(web) as browser:
        listener = Listener(browser)
        failed, whole = threading.Event(), worklist_upkeep.catch_up

        def fail(*arguments: Any, **more: Any) -> int:
            failed.set()
            raise RuntimeError("Doe^Jane")

        monkeypatch.setattr(worklist_upkeep, "catch_up", fail)
        assert failed.wait(10)
        monkeypatch.setattr(worklist_upkeep, "catch_up", whole)
        uid = add(web.node.database, 1, "One^A", "CT", "Chest", at=time.time())
        until(lambda: "study" in listener.of(uid))


def test_a_stream_ends_with_its_session(web: WebNode) -> None:
    with signed_in(web) as browser:
        listener = Listener(browser)
        with web.node.database.begin() as connection:
            accounts.close_sessions(connection, accounts.get(connection, "ann"), actor="test")
        until(lambda: not listener._thread.is_alive())
    with web.node.database.read() as connection:
        assert connection.execute(audit.select()).first() is not None
    assert httpx.get(f"http://127.0.0.1:{web.port}/events").status_code == 401
