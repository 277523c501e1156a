"""Requests that schemathesis makes up from the OpenAPI document, good and bad ones, to a node that serves on a real socket.

No answer is a server's error; status, media type and body are those that the document promises; what it forbids is refused in one line.
The requests are the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from dicom_node.web.openapi import OPERATIONS, PATH, end_of
from tests.dicomweb import Web, served
from tests.imaging import as_file
from tests.node import bright_series
from tests.webserver import BOUNDARY, MULTIPART, configured, multipart

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
BOUNDED = settings(
    max_examples=4,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
IMAGES = bright_series(3, PatientName="Secret^Name", PatientID="SECRET-ID", AccessionNumber="SECRET-ACCESSION")
STORED = {
    "study": str(IMAGES[0].StudyInstanceUID),
    "series": str(IMAGES[0].SeriesInstanceUID),
    "instance": str(IMAGES[0].SOPInstanceUID),
    "frames": "1",
    "path": "7FE00010",
    "job": "1",
    "release": "none",
}
ANOTHER = as_file(bright_series(1, PatientName="Secret^Name", PatientID="SECRET-ID")[0]).getvalue()
FILES = st.sampled_from([ANOTHER, ANOTHER[:-20], ANOTHER[:200], b""]) | st.binary(max_size=400)
BODIES = st.one_of(
    st.tuples(st.just("application/dicom"), FILES),
    st.tuples(st.just(MULTIPART), st.lists(FILES, max_size=3).map(multipart)),
    st.tuples(st.just(MULTIPART), st.binary(max_size=200).map(lambda data: f"--{BOUNDARY}\r\n".encode() + data)),
    st.tuples(st.sampled_from(["multipart/related", "text/plain", "application/dicom+json", "", "x", f"{MULTIPART}; {MULTIPART}"]), FILES),
)

for media_type in OPERATIONS["POST", "studies"].body:
    schemathesis.openapi.media_type(media_type, FILES)  # it would not know what to send


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with _served(tmp_path_factory.mktemp("schemathesis")) as made:
        yield made


def _served(folder: Path) -> Any:
    files = folder / "files"
    files.mkdir()
    for number, image in enumerate(IMAGES):
        (files / f"{number}.dcm").write_bytes(as_file(image).getvalue())
    return served(configured(folder, web="allow_delete = true"), [files])


@pytest.fixture(scope="module")
def operations(web: Web) -> list[APIOperation]:
    """Every operation of the document that the node serves."""
    schema = schemathesis.openapi.from_url(web.url.removesuffix("/dicom-web") + PATH, config=schemathesis.Config.from_dict({}))
    return [result.ok() for result in schema.get_all_operations()]


# What takes nothing cannot be asked wrongly; the document itself is no operation to schemathesis.
ASKED = sorted(set(OPERATIONS) - {("GET", "openapi.json")})


@pytest.mark.parametrize(("method", "end"), ASKED, ids=lambda part: part.strip("{}") or "service")
def test_answers_are_those_that_the_document_promises(operations: list[APIOperation], method: str, end: str) -> None:
    found = [each for each in operations if each.method.upper() == method and end_of(each.path) == end]
    assert found
    modes = [GenerationMode.POSITIVE] if not OPERATIONS[method, end].parameters else list(GenerationMode)
    with requests.Session() as session:
        session.trust_env = False
        for operation in found:
            named = {name: value for name, value in STORED.items() if f"{{{name}}}" in operation.path}
            for mode in modes:
                _ask(session, operation, mode, {})
                if named and method != "DELETE":
                    _ask(session, operation, mode, named)


def _ask(session: requests.Session, operation: APIOperation, mode: GenerationMode, named: dict[str, str]) -> None:
    @BOUNDED
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(mode, path_parameters=named or None))
        kwargs: dict[str, Any] = {}
        if operation.method.upper() in ("POST", "PUT"):
            media_type, body = data.draw(BODIES)
            kwargs = {"data": body, "headers": {"Content-Type": media_type}}
        response = case.call(session=session, timeout=30, **kwargs)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400 and response.headers["content-type"] == ["application/json"]:
            assert "secret" not in response.text.lower()

    ask()
