"""The page of one study over real HTTP: what was found with its pictures, what somebody says about it, and what one may do."""

from __future__ import annotations

import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.integration.test_archive_datasets import RULE, film, sent
from tests.node import peer, rule, running, settings, uid_of
from tests.planar_bundle import planar_bundle
from tests.webserver import serving

LEFT = "segment:Left lung"
HOSTILE = "M\u00fcller<script>alert(1)</script>^Anna"


def test_findings_pictures_and_words_of_a_study(tmp_path: Path) -> None:
    planar_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "node", more=RULE)) as node, serving(node.node.config) as web:
        early, late = film("P1", StudyDate="20240101"), film("P1", StudyDate="20250101", PatientName=HOSTILE)
        early.PatientName = late.PatientName
        sent(node, [early, late], tmp_path / "sent")
        node.work()
        uid = uid_of([late])
        url = f"http://127.0.0.1:{web.port}/studies/{uid}"
        text = _page(web.client, url)
        assert "<script>alert" not in text
        assert re.search(r"<(?!/)[^>]+\s(style|on\w+)=", text) is None
        assert "Müller<script>alert(1)</script>, Anna" in unescape(text)
        assert text.count('class="history"') == 2  # an area of each lung, in both studies
        assert f"/studies/{uid_of([early])}" in text

        (run,) = node.story(uid).runs
        plain, drawn = (_picture(web.client, f"{url}/runs/{run.run.pk}/key-images/0{more}") for more in ("?overlay=0", ""))
        assert drawn.shape == plain.shape == (640, 160, 3)  # 128 rows of 0.2 mm, 64 columns of 0.1 mm
        changed = np.abs(drawn.astype(int) - plain.astype(int)).max(axis=2) > 12
        assert 0.05 < changed.mean() < 0.9
        assert np.ptp(plain.astype(int), axis=2).max() < 8
        for path in (f"{url}/runs/{run.run.pk}/key-images/99", f"{url}/runs/999/key-images/0", f"{url}/runs/x/key-images/0"):
            assert web.client.get(path).status_code in (400, 404)

        said = {"run": run.run.pk, "finding": LEFT, "seen": 0, "verdict": "reject", "code": "wrong_extent", "reason": "<b>no</b>"}
        answer = web.client.post(f"{url}/feedback", data=said)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{uid}?done=feedback#run-{run.run.pk}")
        assert "&lt;b&gt;no&lt;/b&gt;" in _page(web.client, url)
        again = web.client.post(f"{url}/feedback", data={**said, "verdict": "accept"})
        assert again.status_code == 409
        assert "Nothing was kept: anonymous spoke about the same finding" in again.text
        assert web.client.post(f"{url}/feedback", data={**said, "seen": 1, "code": ""}).status_code == 400
        assert web.client.post(f"{url}/feedback", data={**said, "seen": "x"}).status_code == 400
        assert [each.verdict for each in node.story(uid).feedback] == ["reject"]
        corrected = {"run": run.run.pk, "finding": "measurement:Left lung:Area", "seen": 0, "verdict": "modify", "code": "wrong_value"}
        assert web.client.post(f"{url}/feedback", data={**corrected, "corrected": "12.5"}).status_code == 303
        assert re.search(r"<b>12\.5\s", _page(web.client, url))
        chinese = web.client.get(url, headers={"Accept": "text/html", "Accept-Language": "zh"}).text
        assert "轮廓不准确" in chinese
        assert web.client.get(f"http://127.0.0.1:{web.port}/studies/1.2.3").status_code == 404


def test_what_one_may_do_with_a_study(tmp_path: Path) -> None:
    planar_bundle(tmp_path / "node" / "bundles")
    more = (
        peer("pacs", 1, more='results = ["SR"]')
        + RULE
        + rule("pacs", more="").replace("[[rule]]", "[[rule]]", 1)
        + '[[rule]]\nname = "hold"\nhold = "look first"\n'
    )
    with running(settings(tmp_path / "node", more=more.replace('run = ["halves"]', 'run = ["halves"]\ndeliver = ["pacs"]'))) as node:
        with serving(node.node.config) as web:
            image = film("P1")
            sent(node, [image], tmp_path / "sent")
            node.work()
            uid = uid_of([image])
            url = f"http://127.0.0.1:{web.port}/studies/{uid}"
            assert "look first" in _page(web.client, url)
            assert web.client.post(f"{url}/release", data={"reason": ""}).status_code == 400
            assert web.client.post(f"{url}/release", data={"reason": "looked"}).status_code == 303
            refused = web.client.post(f"{url}/release", data={"reason": "looked"})
            assert refused.status_code == 409
            assert "That was not done" in refused.text
            node.work()
            node.duties.reclaim_jobs()
            (run,) = node.story(uid).runs
            _, failed = run.deliveries
            assert failed.delivery.form == "SR"
            assert "Send again" in _page(web.client, url)
            assert web.client.post(f"{url}/retry", data={"job": failed.delivery.job_pk}).status_code == 303
            assert [each.delivery.state for each in node.story(uid).runs[0].deliveries] == ["NOT_TAKEN", "SCHEDULED"]
            assert web.client.post(f"{url}/retry", data={"job": failed.delivery.job_pk}).status_code == 409
            assert web.client.post(f"{url}/rerun", data={"reason": "once more"}).status_code == 303
            assert (
                web.client.post(f"{url}/choose", data={"rule": "lungs", "model": "halves", "series": "1.2", "reason": "x"}).status_code
                == 409
            )


def _page(client: httpx.Client, url: str) -> str:
    answer = client.get(url, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.text


def _picture(client: httpx.Client, url: str) -> Any:
    answer = client.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text[:300]
    return np.asarray(Image.open(io.BytesIO(answer.content)))
