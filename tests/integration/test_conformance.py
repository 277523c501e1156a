"""The conformance statement names every service, address and attribute that there is, as command and as page."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.routing import Route, WebSocketRoute

from dicom_node.conformance.document import Document, Section, Table, html, markdown
from dicom_node.conformance.sources import registered_by
from dicom_node.conformance.statement import RESOURCES, SERVICES, methods_of, statement
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.web.openapi import end_of
from storage.attributes import ATTRIBUTES
from tests.webserver import configured, web_node

PRIVATE = '\n[dimse]\nextra_sop_classes = ["1.2.3.4.5"]\nextra_transfer_syntaxes = ["1.2.3.4.6"]\n'


@pytest.mark.parametrize("web", ["", "allow_delete = true"])
def test_every_service_address_syntax_and_attribute_is_named(tmp_path: Path, web: str) -> None:
    config = configured(tmp_path, web=web)
    with registered_by(config) as found:
        text = markdown(statement(found))
        services, routes = dict(found.services), list(found.routes)
    assert services
    for uid, service in services.items():
        assert f"| {uid} |" in text
        assert type(service).__name__ in SERVICES, "give the service its words in the statement"
    described = {(row[0], row[1]): row[2] for row in re.findall(r"^\| ([A-Z]+) \| (/\S*) \| ([^|]*) \|", text, flags=re.M)}
    for route in routes:
        assert isinstance(route, Route | WebSocketRoute)
        for method in methods_of(route) - {"HEAD"}:
            assert described[method, route.path.replace(":path", "")].strip(), "give the address its words in the statement"
    assert (
        ("DELETE", "/dicom-web/studies/{study}") in described
        if web
        else not [path for method, path in described if method == "DELETE" and "/studies" in path]
    )
    for uid in TRANSFER_SYNTAXES:
        assert f"| {uid} |" in text
    for attribute in ATTRIBUTES.values():
        assert f"| {attribute.keyword} |" in text
    assert not (tmp_path / "data").exists()


def test_what_a_configuration_adds_is_in_it(tmp_path: Path) -> None:
    config = configured(tmp_path)
    file = tmp_path / "node.toml"
    file.write_text(file.read_text().replace("[dimse]\n", PRIVATE))
    from dicom_node.config import load

    with registered_by(load(file)) as found:
        text = markdown(statement(found))
    assert "| 1.2.3.4.5 |" in text
    assert "| 1.2.3.4.6 |" in text
    assert config.node.ae_title in text


def test_no_words_for_what_is_not_there(tmp_path: Path) -> None:
    with registered_by(configured(tmp_path, web="allow_delete = true")) as found:
        there = {
            (method, end_of(route.path))
            for route in found.routes
            if isinstance(route, Route | WebSocketRoute)
            for method in methods_of(route)
        }
    assert set(RESOURCES) <= there


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(tmp_path: Path) -> None:
    with web_node(tmp_path) as web:
        answer = web.client.get(f"http://127.0.0.1:{web.port}/conformance")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = _Page()
    page.feed(answer.text)
    assert "script" not in page.tags
    assert "/conformance" in page.text
    assert "1.2.840.10008.5.1.4.1.1.2" in page.text


def test_markup_in_a_configuration_stays_text() -> None:
    document = Document("<b>", ["a & b"], [Section("<i>", ["x"], [Table(["<h>"], [["<script>alert(1)</script> | \\"]])])])
    page = _Page()
    page.feed(html(document))
    assert not {"b", "i", "script", "h"} & set(page.tags)
    assert "<script>alert(1)</script>" in page.text
    assert "&lt;script>alert(1)&lt;/script> \\| \\\\" in markdown(document)


@pytest.mark.parametrize(("form", "begins"), [("md", "# DICOM conformance statement"), ("html", "<!doctype html>")])
def test_the_command(tmp_path: Path, form: str, begins: str) -> None:
    configured(tmp_path)
    command = [sys.executable, "-m", "dicom_node", "conformance", "--format", form, "--config", str(tmp_path / "node.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith(begins)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.toml"]


def test_what_each_sop_class_of_workitems_is_for(tmp_path: Path) -> None:
    with registered_by(configured(tmp_path)) as found:
        text = markdown(statement(found))
    pull = next(line for line in text.splitlines() if "1.2.840.10008.5.1.4.34.6.3 | N-GET" in line)
    assert "N-GET, N-SET, N-ACTION, C-FIND | 1 change state |" in pull
    assert re.search(r"Unified Procedure Step - Event \| N-EVENT-REPORT \| SCP", text)
