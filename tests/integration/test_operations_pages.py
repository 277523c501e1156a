"""The administrator's pages over a real server: what failed and why, retried and canceled with a reason, peers echoed, the node's state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dicom_node.web.pages.site import POLICY
from tests.node import PLAIN, StepNode, bright_series, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import WebNode, serving

PAGE = {"Accept": "text/html"}


ONE_FORM = 'results = ["SR"]'


@pytest.fixture
def failed(tmp_path: Path) -> Iterator[tuple[StepNode, WebNode, str]]:
    """A node whose peer is down: a study came, its model ran, its delivery is a dead letter."""
    tiny_bundle(tmp_path / "bundles")
    plain = PLAIN.replace("[delivery]", "[delivery]\nattempts = 1")
    config = settings(tmp_path, plain=plain, more=peer("pacs", 1, more=ONE_FORM) + rule("pacs"))
    with running(config) as node, serving(config) as web:
        images = bright_series()
        send(node, images, tmp_path / "in")
        node.work()
        yield node, web, uid_of(images)


def get(web: WebNode, path: str, status: int = 200) -> str:
    answer = web.client.get(f"http://127.0.0.1:{web.port}{path}", headers=PAGE)
    assert (answer.status_code, answer.headers["content-security-policy"]) == (status, POLICY), answer.text[:500]
    assert len(answer.content) < 200_000
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", answer.text)
    return answer.text


def post(web: WebNode, path: str, **fields: str | list[str]) -> httpx.Response:
    return web.client.post(f"http://127.0.0.1:{web.port}{path}", data=fields, headers=PAGE)


def test_a_dead_letter_is_explained_retried_once_and_canceled(failed: tuple[StepNode, WebNode, str]) -> None:
    _, web, study = failed
    listed = get(web, "/jobs")
    assert '<span class="mono small">SR</span>' in listed
    (job,) = re.findall(r'name="job" value="(\d+)"', listed)
    assert ("no TCP connection" in listed, f"/studies/{study}" in listed) == (True, True)
    assert "When it is in order, retry" in get(web, f"/jobs/{job}")
    assert post(web, "/jobs/retry", job=job).status_code == 400
    assert post(web, "/jobs/retry", reason="x").status_code == 400
    assert post(web, "/jobs/retry", job="1; DROP", reason="x").status_code == 400
    done = post(web, "/jobs/retry", job=[job, job], reason="the PACS is back")
    assert (done.status_code, done.headers["location"]) == (303, "/jobs?done=1&refused=1")
    told = get(web, done.headers["location"])
    assert ("1 job is tried again" in told, "1 was not" in told) == (True, True)
    again = post(web, "/jobs/retry", job=job, reason="once more")
    assert (again.status_code, "is SCHEDULED" in again.text) == (409, True)
    assert "the PACS is back" in get(web, f"/jobs/{job}")
    assert post(web, f"/jobs/{job}/cancel", reason="not wanted").headers["location"] == f"/jobs/{job}?done=cancel"
    assert post(web, f"/jobs/{job}/cancel", reason="again").status_code == 409
    assert get(web, "/jobs?state=CANCELED&queue=deliver%3Apacs").count(f'href="/jobs/{job}"') == 1
    for odd in ("/jobs?state=ODD", "/jobs?kind=x", "/jobs?before=-1", "/jobs?done=a"):
        get(web, odd, 400)
    for nothing in ("/jobs/999999", "/jobs/9223372036854775808", f"/models/{10**22}"):
        get(web, nothing, 404)
    get(web, "/jobs?queue=%00", 400)


def test_a_peer_says_what_is_wrong_and_answers_an_echo(tmp_path: Path) -> None:
    with running(settings(tmp_path / "other", title="OTHER")) as other:
        more = peer("up", other.port, title="OTHER") + peer("down", 1) + '\n[[peer]]\nname = "calls"\nae_title = "CALLS"\n'
        with serving(settings(tmp_path / "node", more=more)) as web:
            listed = get(web, "/peers")
            assert all(f'id="{name}"' in listed for name in ("up", "down", "calls"))
            assert "answered the echo" in post(web, "/peers/up/echo").text
            assert "tcp: no TCP connection" in post(web, "/peers/down/echo").text
            assert post(web, "/peers/calls/echo").status_code == 404
            assert post(web, "/peers/nobody/echo").status_code == 404


def test_models_and_system_say_how_they_stand(failed: tuple[StepNode, WebNode, str]) -> None:
    node, web, study = failed
    node.duties.reclaim_jobs()
    told = re.findall(r'<dt class="mono">(\w+)</dt><dd>([^<]*)</dd>', get(web, "/peers"))
    assert told == [("SEG", "0 delivered, 1 not taken"), ("SR", "0 delivered, 1 failed")]
    assert "was not released here" in get(web, "/models")
    get(web, "/models/999", 404)
    system = get(web, "/system")
    assert ("Audit trail" in system, f"/studies/{study}" in system) == (True, True)
    assert re.search(r'<b><a href="/jobs">1</a></b>', system)
    checked = post(web, "/system/check").text
    assert ("peer pacs" in checked, "in trouble" in checked) == (True, True)
