"""An archive that is asked for earlier studies over DICOMweb and answers badly: it is said, nothing of it is used, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from dicom_node.config import Config, parse
from dicom_node.dicomweb_client import DicomwebClient, DicomwebError
from dicom_node.errors import ConfigurationError
from tests.imaging import as_file
from tests.node import StepNode, running, send, settings, uid_of
from tests.priors import RULE, comparing_bundle, study
from tests.webserver import BOUNDARY, configured, multipart, serving

PEER = """
[[peer]]
name = "archive"
ae_title = "ARCHIVE"
priors = true
dicomweb = "{root}"
{more}
"""
Answer = Callable[[BaseHTTPRequestHandler], None]
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def body_of(images: Sequence[Dataset]) -> bytes:
    return multipart([as_file(image).getvalue() for image in images])


def answered(status: int, body: bytes = b"", kind: str = "text/plain", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def without_an_end(piece: bytes, ended: threading.Event, pause: float) -> Answer:
    """The head of an answer, and then a little again and again."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", TYPE)
        request.end_headers()
        while not ended.wait(pause):
            request.wfile.write(piece)

    return answer


@dataclass
class Faulty:
    """An archive that names these studies, and answers to a retrieval as the test says."""

    studies: list[list[Dataset]]
    retrieval: Answer = field(default_factory=lambda: answered(404))
    search: Answer | None = None
    declared: int | None = None
    asked: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        with contextlib.suppress(OSError):
            if "/studies?" not in request.path:
                self.retrieval(request)
            elif self.search is not None:
                self.search(request)
            else:
                answered(200, json.dumps([self._named(images) for images in self.studies]).encode(), "application/dicom+json")(request)

    def _named(self, images: list[Dataset]) -> dict[str, Any]:
        first = images[0]
        values = {
            "0020000D": ("UI", first.StudyInstanceUID), "00080020": ("DA", first.StudyDate), "00100020": ("LO", first.PatientID),
            "00100030": ("DA", first.PatientBirthDate), "00201208": ("IS", self.declared or len(images)),
        }  # fmt: skip
        return {tag: {"vr": vr, "Value": [value]} for tag, (vr, value) in values.items()}


@contextlib.contextmanager
def listening(faulty: Faulty, tls: ssl.SSLContext | None = None) -> Iterator[Faulty]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            faulty.answer(self)

        def log_message(self, *_: object) -> None:
            return None

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that does not trust us, or went: what the test is about."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    faulty.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield faulty
    finally:
        faulty.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def asking(folder: Path, port: int, *, prior: str = "", more: str = "") -> Config:
    comparing_bundle(folder / "bundles", more=prior)
    return settings(folder, more=PEER.format(root=f"http://127.0.0.1:{port}/web", more=more) + RULE)


def said_of(opened: StepNode, images: list[Dataset], folder: Path) -> str:
    """What is said about the prior of a study that comes and is run without."""
    send(opened, images, folder / "now")
    opened.work()
    story = opened.story(uid_of(images))
    (run,) = [each.run for each in story.runs]
    assert run.state == "COMPLETED", run.reason
    assert [each["voxels"] for each in run.findings["segments"]] == [18, 0]
    (said,) = [each.detail["reason"] for each in story.audit if each.event == "prior.missing"]
    return str(said)


THEN = study("20240101")
HALF = body_of(THEN)[: len(body_of(THEN)) // 2]
OTHER = study("20240101", PatientID="P1")


@pytest.mark.parametrize(
    ("retrieval", "why"),
    [
        (answered(404), "it answered 404"),
        (answered(500, b"Traceback: PatientName=DOE"), "it answered 500"),
        (answered(302, Location="http://127.0.0.1:1/"), "it answered 302"),
        (answered(200, b"<html>", "text/html"), "its answer to a retrieval is not multipart/related"),
        (answered(200, HALF, TYPE), "came in part: body ends before its closing boundary"),
        (answered(200, HALF, TYPE, Content_Length=str(10 * len(HALF))), "came in part: body ends before its closing boundary"),
        (answered(200, body_of(OTHER), TYPE), "6 of 6 objects of study"),
        (answered(200, body_of([]), TYPE), "nothing of study"),
        (answered(200, body_of([*THEN, *study("20240101")]), TYPE), "more or larger images than are taken (at most 8)"),
        (answered(200, HALF, TYPE, Content_Encoding="gzip"), "its answer is compressed"),
    ],
)
def test_a_retrieval_that_goes_wrong_leaves_nothing_behind(tmp_path: Path, retrieval: Answer, why: str) -> None:
    with listening(Faulty([THEN], retrieval)) as archive, running(asking(tmp_path, archive.port, prior="max_instances = 8")) as opened:
        said = said_of(opened, study("20250102"), tmp_path)
        assert said.startswith("archive: ")
        assert why in said
        assert "DOE" not in said
        for images in (THEN, OTHER):
            assert not opened.node.archive.instances(uid_of(images)), "what came in part is no study to compare with"


@pytest.mark.parametrize(
    ("search", "why"),
    [
        (answered(401), "it answered 401"),
        (answered(503), "it answered 503"),
        (answered(200, b"[{", "application/dicom+json"), "its answer to a search is no JSON"),
        (answered(200, b"[" * 100_000, "application/dicom+json"), "its answer to a search is no JSON"),
        (answered(200, b'{"a": 1}', "application/dicom+json"), "is no list of studies"),
        (answered(200, b" " * (5 << 20), "application/dicom+json"), "has more than 4194304 bytes"),
    ],
)
def test_a_search_that_goes_wrong_is_said(tmp_path: Path, search: Answer, why: str) -> None:
    with listening(Faulty([], search=search)) as archive, running(asking(tmp_path, archive.port)) as opened:
        assert why in said_of(opened, study("20250102"), tmp_path)


@pytest.mark.parametrize("pause", [0.05, 30.0])
def test_one_that_dribbles_or_says_nothing_is_given_up_at_the_models_deadline(tmp_path: Path, pause: float) -> None:
    faulty = Faulty([THEN])
    faulty.retrieval = without_an_end(b"-", faulty.ended, pause)
    with listening(faulty) as archive, running(asking(tmp_path, archive.port, prior="deadline = 1.0")) as opened:
        assert said_of(opened, study("20250102"), tmp_path) == "archive: it did not answer in time"


def test_what_names_no_study_of_the_patient_is_not_fetched(tmp_path: Path) -> None:
    stranger, twin, huge = study("20240101", PatientID="P9"), study("20240101", PatientBirthDate="19800101"), study("20230101")
    faulty = Faulty([stranger, twin, huge], declared=5000)
    with listening(faulty) as archive, running(asking(tmp_path, archive.port)) as opened:
        said = said_of(opened, study("20250102"), tmp_path)
    assert said.count("is another patient's by its birth date or issuer") == 2
    assert "has 5000 images, at most 2000 are taken" in said
    assert len(archive.asked) == 1, "nothing was retrieved"


def test_one_that_cannot_be_had_keeps_no_other_away(tmp_path: Path) -> None:
    newer = study("20240601")

    def only_the_older(request: BaseHTTPRequestHandler) -> None:
        (answered(500) if uid_of(newer) in request.path else answered(200, body_of(THEN), TYPE))(request)

    with listening(Faulty([THEN, newer], only_the_older)) as archive, running(asking(tmp_path, archive.port)) as opened:
        now = study("20250102", bright=False)
        send(opened, now, tmp_path / "now")
        opened.work()
        (run,) = [each.run for each in opened.story(uid_of(now)).runs]
        assert [each["voxels"] for each in run.findings["segments"]] == [0, 18]
        assert opened.story(uid_of(THEN)).runs == ()


def test_a_token_from_a_file_opens_an_archive_of_our_own_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_READER", "a-reader-token-for-tests")
    token = tmp_path / "pacs.token"
    token.write_text("a-reader-token-for-tests\n")
    there = configured(tmp_path / "archive", web='tokens = [{ name = "ada", token = { env = "TEST_READER" }, rights = ["read"] }]')
    with serving(there) as web, running(there) as receiving:
        send(receiving, THEN, tmp_path / "then")
        more = f'dicomweb_token = {{ file = "{token}" }}'
        root = f"http://127.0.0.1:{web.port}/dicom-web"
        comparing_bundle(tmp_path / "node" / "bundles")
        config = settings(tmp_path / "node", more=PEER.format(root=root, more=more) + RULE)
        assert "a-reader-token" not in repr(config) + config.model_dump_json()
        with running(config) as opened:
            now = study("20250102", bright=False)
            send(opened, now, tmp_path / "now")
            opened.work()
            (run,) = [each.run for each in opened.story(uid_of(now)).runs]
            assert [each["voxels"] for each in run.findings["segments"]] == [0, 18]
        with pytest.raises(DicomwebError, match="it answered 401"):
            DicomwebClient(root).studies({"PatientID": "P1"}, (), within=10)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_is_verified(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "crt.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with listening(Faulty([THEN]), context) as archive:
        trusted = DicomwebClient(f"https://localhost:{archive.port}/web", ca=certificate, connect=5)
        assert [each["0020000D"] for each in trusted.studies({}, (), within=10)] == [uid_of(THEN)]
        for root, ca in ((f"https://localhost:{archive.port}", None), (f"https://127.0.0.1:{archive.port}", certificate)):
            with pytest.raises(DicomwebError, match="its certificate is not trusted"):
                DicomwebClient(root, ca=ca, connect=5).studies({}, (), within=10)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('dicomweb = "pacs/dicom-web"', "a URL such as"),
        ('dicomweb = "https://ada:secret@pacs/dicom-web"', "without user, password or query"),
        ('dicomweb = "http://pacs/web"\ndicomweb_token = { file = "FILE" }', "would go unencrypted"),
        ('dicomweb = "https://pacs/web"\ndicomweb_token = "as it stands here"', "must not stand here"),
    ],
)
def test_what_would_tell_a_secret_is_refused(tmp_path: Path, keys: str, why: str) -> None:
    (tmp_path / "token").write_text("a-reader-token-for-tests")
    text = f'[[peer]]\nname = "archive"\nae_title = "ARCHIVE"\n{keys}\n'.replace("FILE", str(tmp_path / "token"))
    with pytest.raises(ConfigurationError, match=why) as refused:
        parse(text, where=tmp_path / "node.toml")
    assert "secret@" not in str(refused.value)
