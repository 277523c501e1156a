"""Workitems over HTTP, as an outside manager and an outside performer use them (UPS-RS, PS3.18 chapter 11)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage import workitem_values as values
from storage.workitem_values import Json, element
from tests.contract.test_workitems import LOCK, PERFORMED, UID, dataset
from tests.webserver import web_node


class Worklist:
    """Requests to /workitems."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self.url = f"{url}/workitems"
        self.client = client

    def ask(self, method: str, path: str = "", body: Any = None, **headers: str) -> httpx.Response:
        sent = {"content": json.dumps(body)} if body is not None else {}
        return self.client.request(method, self.url + path, **sent, headers={"Content-Type": "application/dicom+json", **headers})

    def state(self, state: str, lock: str = LOCK, uid: str = UID) -> httpx.Response:
        return self.ask("PUT", f"/{uid}/state", {values.STATE: element("CS", state), values.TRANSACTION: element("UI", lock)})

    def read(self, uid: str = UID) -> Json:
        answer = self.ask("GET", f"/{uid}")
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()
        return dict(found)


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Worklist]:
    with web_node(tmp_path) as web:
        yield Worklist(web.url, web.client)


def test_an_outside_performer_claims_and_completes_what_an_outside_manager_made(worklist: Worklist) -> None:
    made = worklist.ask("POST", f"?{UID}", [dataset()])
    assert (made.status_code, made.headers["location"]) == (201, f"{worklist.url}/{UID}")
    assert worklist.ask("POST", f"?workitem={UID}", [dataset()]).status_code == 409
    assert values.text(worklist.read(), values.STATE) == "SCHEDULED"
    assert worklist.state("COMPLETED").status_code == 409
    assert worklist.state("IN PROGRESS").status_code == 200
    assert worklist.state("IN PROGRESS", "2.25.5").status_code == 409
    change = [{values.PERFORMED: element("SQ", PERFORMED)}]
    assert worklist.ask("POST", f"/{UID}", change).status_code == 409
    assert worklist.ask("POST", f"/{UID}?transaction=2.25.5", change).status_code == 409
    assert worklist.state("COMPLETED").status_code == 409  # nothing says yet what was performed
    assert worklist.ask("POST", f"/{UID}?transaction-uid={LOCK}", change).status_code == 200
    assert worklist.state("COMPLETED").status_code == 200
    assert "COMPLETED" in worklist.state("COMPLETED").headers["warning"]
    shown = worklist.read()
    assert values.text(shown, values.STATE) == "COMPLETED"
    assert LOCK not in str(shown)


def test_a_manager_has_a_workitem_canceled(worklist: Worklist) -> None:
    for uid in ("2.25.1", "2.25.2"):
        assert worklist.ask("POST", f"?{uid}", dataset()).status_code == 201
    reason = {values.REASON: element("LT", "not needed")}
    assert worklist.ask("POST", "/2.25.1/cancelrequest", reason).status_code == 202
    assert values.text(worklist.read("2.25.1"), values.STATE) == "CANCELED"
    assert "CANCELED" in worklist.ask("POST", "/2.25.1/cancelrequest").headers["warning"]
    assert worklist.state("IN PROGRESS", uid="2.25.2").status_code == 200
    assert worklist.ask("POST", "/2.25.2/cancelrequest").status_code == 202
    assert values.text(worklist.read("2.25.2"), values.STATE) == "IN PROGRESS"


def test_workitems_are_searched(worklist: Worklist) -> None:
    assert worklist.ask("GET").status_code == 204
    for number, priority in ((1, "HIGH"), (2, "LOW"), (3, "LOW")):
        worklist.ask("POST", f"?2.25.{number}", dataset(**{values.PRIORITY: element("CS", priority)}))

    def found(query: str) -> list[str]:
        return [values.text(each, values.SOP_INSTANCE) for each in worklist.ask("GET", query).json()]

    assert found("") == ["2.25.1", "2.25.2", "2.25.3"]
    assert found("?ScheduledProcedureStepPriority=LOW&ProcedureStepState=SCHEDULED") == ["2.25.2", "2.25.3"]
    assert found("?00741204=seg*&offset=1&limit=1") == ["2.25.2"]
    assert "additional" in worklist.ask("GET", "?limit=1").headers["warning"]
    assert worklist.ask("GET", "?ProcedureStepState=COMPLETED").status_code == 204
    assert worklist.ask("GET", "?Nonsense=1").status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([{}], 400),
        ([], 400),
        ([dataset(), dataset()], 400),
        ("text", 400),
        ({values.LABEL: {"vr": "LO", "Value": ["\0"]}}, 400),
        ({values.LABEL: {"vr": "LO", "Value": ["\ud800"]}}, 400),
        ({"label": element("LO", "x")}, 400),
        (dataset(**{values.PRIORITY: element("CS", "URGENT")}), 400),
        (dataset(**{values.STATE: element("CS", "COMPLETED")}), 400),
    ],
    ids=range(9),
)
def test_what_is_no_workitem_is_refused(worklist: Worklist, body: Any, status: int) -> None:
    assert worklist.ask("POST", f"?{UID}", body).status_code == status
    assert worklist.ask("GET", f"/{UID}").status_code == 404


def test_a_body_of_another_kind_or_far_too_deep_is_refused(worklist: Worklist) -> None:
    send = worklist.client.post
    assert send(worklist.url, content=b"<x/>", headers={"Content-Type": "application/dicom+xml"}).status_code == 415
    kind = {"Content-Type": "application/dicom+json"}
    assert send(worklist.url, content=b"[" * 200_000, headers=kind).status_code == 400
    deep = b'{"00404021":{"vr":"SQ","Value":[' * 100 + b"]}}" * 100
    assert send(worklist.url, content=deep, headers=kind).status_code == 400
    assert send(worklist.url, content=b"x" * (5 << 20), headers=kind).status_code == 413
    assert worklist.ask("GET", "/2.25.404").status_code == 404
    assert worklist.ask("PUT", "/2.25.404/state", {}).status_code == 404
