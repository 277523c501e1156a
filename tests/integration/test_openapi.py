"""The OpenAPI document names every address of the web application, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route, WebSocketRoute

from dicom_node.conformance.sources import registered_by
from dicom_node.web.openapi import OPERATIONS, PATH, document, end_of
from dicom_node.web.openapi_parameters import PARAMETERS
from tests.webserver import configured, web_node


@pytest.mark.parametrize("web", ["", "allow_delete = true"])
def test_every_route_is_described_and_nothing_else(tmp_path: Path, web: str) -> None:
    with registered_by(configured(tmp_path, web=web)) as found:
        routes = list(found.routes)
    there = set()
    for route in routes:
        if isinstance(route, WebSocketRoute):  # OpenAPI has no words for one
            continue
        assert isinstance(route, Route)
        there |= {(method.lower(), route.path.replace(":path}", "}")) for method in (route.methods or set()) - {"HEAD"}}
    described = document(routes, with_token=False)["paths"]
    assert {(method, path) for path, methods in described.items() for method in methods} == there
    assert ("delete" in described["/dicom-web/studies/{study}"]) is bool(web)
    if web:
        assert {(method.upper(), end_of(path)) for method, path in there} == set(OPERATIONS)


def test_a_route_without_words_is_an_error() -> None:
    with pytest.raises(KeyError):
        document([Route("/dicom-web/undescribed", lambda request: None)], with_token=False)


def test_the_served_document(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answer = web.client.get(f"http://127.0.0.1:{web.port}{PATH}")
        page = web.client.get(f"http://127.0.0.1:{web.port}/conformance")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    served = answer.json()
    assert served["openapi"] == "3.1.0"
    assert served["security"] == [{}, {"token": []}]
    used = {reference.rpartition("/")[2] for reference in _references(served["paths"]) if "/parameters/" in reference}
    assert used <= set(PARAMETERS)
    assert set(served["components"]["schemas"]) == {
        reference.rpartition("/")[2] for reference in _references(served) if "/schemas/" in reference
    }
    for path, methods in served["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            named = {each["$ref"].rpartition("/")[2] for each in operation["parameters"]}
            assert {part[1:-1] for part in path.split("/") if part.startswith("{")} <= named
    assert page.text.count(f"<td>{PATH}</td>") == 1


def test_a_node_with_tokens_says_that_one_is_needed(tmp_path: Path) -> None:
    token = "x" * 40
    (tmp_path / "token").write_text(token)
    tokens = f'tokens = [{{ name = "viewer", token = {{ file = "{tmp_path / "token"}" }}, rights = ["read"] }}]'
    with web_node(tmp_path, web=tokens) as web:
        url = f"http://127.0.0.1:{web.port}{PATH}"
        assert web.client.get(url).status_code == 401
        served = web.client.get(url, headers={"Authorization": f"Bearer {token}"}).json()
    assert served["security"] == [{"token": []}]
    assert served["paths"]["/healthz"]["get"]["security"] == []


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [each for item in value for each in _references(item)]
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [each for item in value.values() for each in _references(item)]
    return []
