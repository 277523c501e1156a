"""The node's state over HTTP is what its commands print, and what a person decides there leaves who and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from storage.schema import audit
from tests.node import PLAIN, bright_series, command, peer, rule, running, send, settings, uid_of
from tests.tiny_bundle import tiny_bundle
from tests.webserver import serving, web_node

READER, OPERATOR = "reader-token-0123456789", "operator-token-0123456789"
TOKENS = """
tokens = [
  { name = "viewer", token = { env = "TEST_READER" } },
  { name = "ada", token = { env = "TEST_OPERATOR" }, rights = ["read", "operate"] },
]
"""
HOLDING = """
[[rule]]
name = "hold"
hold = "look at it first"
tags = ["first"]
"""


def test_a_study_is_held_released_and_its_delivery_retried_over_http(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles")
    plain = PLAIN.replace("[delivery]", "[delivery]\nattempts = 3")
    config = settings(tmp_path, plain=plain, more=peer("pacs", 1) + rule("pacs", more="") + HOLDING)
    with running(config) as node, serving(config) as web:
        api = f"http://127.0.0.1:{web.port}/api"

        def get(path: str, **query: str) -> Any:
            answer = web.client.get(f"{api}/{path}", params=query)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def post(path: str, status: int = 200, **query: str) -> Any:
            answer = web.client.post(f"{api}/{path}", params=query)
            assert answer.status_code == status, answer.text
            return answer.json()

        images = bright_series()
        send(node, images, tmp_path / "in")
        node.work()
        uid = uid_of(images)
        (found,) = get("studies", match="Modality=MR", state="COMPLETE", tag="first")
        assert get("studies", tag="second") == []
        assert (found["study_uid"], found["flag"].startswith("held for review")) == (uid, True)
        assert [each["rule"] for each in get(f"studies/{uid}/plan")["held"]] == ["hold"]
        assert "reason is needed" in post(f"studies/{uid}/release", 400)["error"]
        post(f"studies/{uid}/release", reason="looked at")
        node.work()
        node.duties.reclaim_jobs()
        story = get(f"studies/{images[0].SOPInstanceUID}")
        (run,) = story["runs"]
        assert run["run"]["state"] == "COMPLETED"
        assert command(config, "study", "show", uid, "--json").stdout.strip() == web_text(story)
        also, failed = get("jobs", state="FAILED", kind="deliver", study=uid)
        assert (failed["payload"]["form"], also["payload"]["form"]) == ("SEG", "SR")
        (pacs,) = get("peers")
        assert (pacs["name"], pacs["deliveries"]["failed"], pacs["deliveries"]["waiting"]) == ("pacs", 2, 0)
        assert [(each["form"], each["failed"]) for each in pacs["deliveries"]["forms"]] == [("SEG", 1), ("SR", 1)]
        assert "refused" in pacs["deliveries"]["failed_why"].lower()
        post(f"jobs/{failed['pk']}/retry", reason="the PACS is back")
        assert get(f"jobs/{failed['pk']}")["events"][-1]["detail"] == "requeued: by anonymous: the PACS is back"
        assert get("peers")[0]["deliveries"]["waiting"] == 1
        post(f"jobs/{failed['pk']}/cancel", reason="not needed")
        assert "nothing to cancel" in post(f"jobs/{failed['pk']}/cancel", 409, reason="again")["error"]
        post(f"studies/{uid}/rerun", 400, reason="x", rule="no such rule")
        assert post(f"studies/{uid}/rerun", reason="once more")["study"] == uid
        assert [each["name"] for each in get("rules")["rules"]] == [each.name for each in config.rule]
        assert get("releases") == []
        for path in ("studies/1.2.3", "jobs/999", "releases/none"):
            assert web.client.get(f"{api}/{path}").status_code == 404
        for path in ("jobs/x", "jobs?state=ODD", "studies?match=x", "studies?match=Odd=1", "studies?limit=-1"):
            assert web.client.get(f"{api}/{path}").status_code == 400


def web_text(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


def test_deciding_needs_the_right_to_operate_and_a_page_of_this_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_READER", READER)
    monkeypatch.setenv("TEST_OPERATOR", OPERATOR)
    with web_node(tmp_path, web=TOKENS) as web:
        url = f"http://127.0.0.1:{web.port}/api/jobs"

        def status(method: str, token: str, path: str = "", **headers: str) -> int:
            headers = {"Authorization": f"Bearer {token}", **headers}
            return web.client.request(method, url + path, headers=headers).status_code

        assert [status("GET", token) for token in (READER, OPERATOR, "wrong")] == [200, 200, 401]
        assert status("POST", READER, "/1/retry?reason=x") == 403
        assert status("POST", OPERATOR, "/1/retry?reason=x") == 404
        assert status("POST", OPERATOR, "/1/retry?reason=x", Origin="http://evil.example") == 403
        with web.node.database.read() as connection:
            assert "token.refused" in set(connection.scalars(select(audit.c.event)))


def test_without_tokens_everybody_may_read_and_nobody_decide_from_elsewhere(tmp_path: Path) -> None:
    with web_node(tmp_path, web='allow_anonymous = true\nhost = "0.0.0.0"') as web:
        url = f"http://127.0.0.1:{web.port}/api/jobs"
        assert web.client.get(url).status_code == 200
        assert web.client.post(f"{url}/1/cancel?reason=x").status_code == 403
