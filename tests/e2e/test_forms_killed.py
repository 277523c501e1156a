"""The sender of results is killed between two forms of one result: what the peer had is not sent again, the rest comes as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt

from dicom_node.config import load
from dicom_node.results.forms import SOP_CLASSES, kind_of
from tests.e2e.test_serve import Served, eventually, serving
from tests.node import bright_series, peer, rule, send_to, settings, uid_of
from tests.tiny_bundle import tiny_bundle

FORMS = 'results = ["SEG", "SR", "SC"]\nsuffices = ["SEG", "SR"]'


class Pacs:
    """A PACS at which the node's sender dies while it is sent the form ``at``, before anything is answered."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.node: Served | None = None
        self.ready = threading.Event()
        self.sent: list[tuple[str, str]] = []
        self.killed = 0

    def on_store(self, event: Any) -> int:
        form = kind_of(str(event.request.AffectedSOPClassUID)) or ""
        self.sent.append((form, str(event.request.AffectedSOPInstanceUID)))
        if form == self.at and not self.killed and self.ready.wait(30):
            assert self.node is not None
            sender = self.node.role("worker", "--io")
            assert sender is not None
            self.killed = sender.pid
            sender.kill()
            sender.wait(10)
        return 0x0000


@pytest.fixture
def pacs(request: pytest.FixtureRequest) -> Iterator[tuple[Pacs, int]]:
    made, entity = Pacs(request.param), AE(ae_title="PACS")
    for uid in SOP_CLASSES:
        entity.add_supported_context(uid)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, made.on_store)])
    assert server is not None
    yield made, server.server_address[1]
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("pacs", ["SR"], indirect=True)
def test_every_form_arrives_and_what_had_arrived_is_not_sent_again(tmp_path: Path, pacs: tuple[Pacs, int]) -> None:
    archive, port = pacs
    folder = tmp_path / "node"
    tiny_bundle(folder / "bundles")
    settings(folder, quiet="300ms", more=peer("pacs", port, more=FORMS) + rule("pacs") + "\n[executor]\nthreads = 1\n")
    file = folder / "node.toml"
    file.write_text(file.read_text().replace('lease = "30s"', 'lease = "3s"').replace("backoff = 0", 'backoff = "200ms"', 1))
    images = bright_series()
    with serving(folder, load(file)) as node:
        archive.node = node
        archive.ready.set()
        assert send_to(node.port, images, tmp_path / "in", called="NODE") == [0] * 6

        def deliveries() -> dict[str, Any]:
            story = node.story(uid_of(images))
            return {} if story is None else {each.delivery.form: each for run in story.runs for each in run.deliveries}

        eventually(lambda: [each.delivery.state for each in deliveries().values()] == ["DELIVERED"] * 3)
        found = deliveries()
    assert archive.killed
    times = {form: [uid for sent, uid in archive.sent if sent == form] for form in ("SEG", "SR", "SC")}
    assert {form: len(uids) for form, uids in times.items()} == {form: 2 if form == archive.at else 1 for form in times}
    assert all(len(set(uids)) == 1 for uids in times.values()), "sent once more, it is the same object"
    for form, uids in times.items():
        assert [(row.sop_uid, row.state) for row in found[form].instances] == [(uids[0], "ACCEPTED")]
