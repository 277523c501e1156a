"""A moment in which every process that decodes is busy breaks no answer that has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.transcode import ChildrenBusy, Transcoder
from dicom_node.web.dicomweb import wado
from dicom_node.web.dicomweb.multipart import MultipartWriter
from storage.archive import StoredInstance
from storage.header_json import build_missing
from tests.datasets import CT, dataset, part10
from tests.webserver import web_node

DEFLATED = "1.2.840.10008.1.2.1.99"


class Sometimes(Transcoder):
    """Busy at the calls that are named, counted from 0."""

    def __init__(self, busy: set[int]) -> None:
        super().__init__(wait=1)
        self._busy = busy
        self.calls = 0

    def transcode(self, data: bytes | memoryview, source: str, target: str) -> bytes:
        self.calls += 1
        if self.calls - 1 in self._busy:
            raise ChildrenBusy("all processes that decode are busy")
        return super().transcode(data, source, target)


@pytest.fixture
def stored(tmp_path: Path) -> list[StoredInstance]:
    files = [part10(dataset("1.2.3", "1.2.3.1", f"1.2.3.1.{number}"), CT, f"1.2.3.1.{number}") for number in range(3)]
    with web_node(tmp_path) as web:
        assert web.store(files).status_code == 200
        build_missing(web.node.archive)
        return list(web.node.archive.instances("1.2.3"))


def answer(stored: list[StoredInstance], busy: set[int]) -> bytes:
    transcoder = Sometimes(busy)
    try:
        pieces = wado._transcoded([(each, DEFLATED) for each in stored], transcoder, MultipartWriter(wado.DICOM), "http://node")
        return b"".join(bytes(buffer) for piece in pieces for buffer in piece)
    finally:
        transcoder.close()


def test_before_it_has_begun_the_client_may_come_again(stored: list[StoredInstance]) -> None:
    with pytest.raises(ChildrenBusy):
        answer(stored, {0})


def test_once_it_has_begun_it_waits_and_at_last_sends_as_stored(stored: list[StoredInstance]) -> None:
    assert answer(stored, {1, 2}).count(f"transfer-syntax={DEFLATED}".encode()) == 3
    gave_up = answer(stored, {1, 2, 3})
    assert gave_up.count(f"transfer-syntax={DEFLATED}".encode()) == 2
    assert gave_up.count(b"Content-Location") == 3
