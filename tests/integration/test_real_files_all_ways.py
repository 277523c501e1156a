"""Every kind of file goes in by C-STORE into one node and by STOW-RS into another, and comes out of both by C-GET and by WADO-RS."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.dimse.scu import StoreItem, associate
from dicom_node.sending import store_item
from storage.part10 import read_part10_header
from tests.dimse import EXPLICIT
from tests.integration.test_retrieve_transcoded import CLIENT, dataset, retrieve, rounds, same
from tests.node import StepNode, running, settings
from tests.webserver import WebNode, serving

pytestmark = [pytest.mark.real_data, pytest.mark.filterwarnings("ignore::UserWarning")]

NO_STUDY = {"HTJ2K_08_RGB.dcm", "HTJ2KLossless_08_RGB.dcm"}  # without Study Instance UID, which both ways refuse
CANNOT_UNDERSTAND = 0xC000
Kept = dict[str, tuple[str, str, bytes]]  # SOP Instance UID > SOP class, transfer syntax, data set


def test_what_went_in_either_way_comes_out_either_way(tmp_path: Path, real_data: Path) -> None:
    refused: set[str] = set()
    for number, paths in enumerate(rounds(real_data)):
        for way, put in (("store", by_store), ("stow", by_stow)):
            config = settings(tmp_path / f"{way}{number}", more=CLIENT)
            with running(config) as node, serving(config) as web:
                statuses: dict[str, int] = {}
                kept: Kept = {}
                for path in paths:
                    item = inside(path)
                    statuses[path.name] = put(node, web, item, path)
                    if statuses[path.name] == 0:
                        kept[item.sop_instance_uid] = (item.sop_class_uid, item.transfer_syntax_uid, data_of(path))
                assert {status for name, status in statuses.items() if name not in NO_STUDY} == {0}, statuses
                refused |= {name for name, status in statuses.items() if status}
                comes_out_by_get(node, kept)
                comes_out_by_wado(node, web, kept)
    assert refused == NO_STUDY


def inside(path: Path) -> StoreItem:
    """What a sender would send: named as the data set names it, whatever the file meta says."""
    found = dcmread(path, specific_tags=["SOPInstanceUID", "SOPClassUID"])
    return replace(store_item(path), sop_instance_uid=str(found.SOPInstanceUID), sop_class_uid=str(found.SOPClassUID))


def data_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        start = read_part10_header(stream).dataset_offset
    return path.read_bytes()[start:]


def by_store(node: StepNode, web: WebNode, item: StoreItem, path: Path) -> int:
    contexts = [(item.sop_class_uid, [item.transfer_syntax_uid])]
    with associate("127.0.0.1", node.port, calling_ae="SCANNER", called_ae="NODE", contexts=contexts) as association:
        status = association.store(item).status
    assert status in (0, CANNOT_UNDERSTAND), path.name
    return status


def by_stow(node: StepNode, web: WebNode, item: StoreItem, path: Path) -> int:
    answer = web.client.post(f"{web.url}/studies", content=path.read_bytes(), headers={"Content-Type": "application/dicom"})
    if answer.status_code == 200:
        return 0
    assert answer.status_code == 409, (path.name, answer.text)
    failures = answer.json().get("00081198") or answer.json()["0008119A"]
    return int(failures["Value"][0]["00081197"]["Value"][0])


def comes_out_by_get(node: StepNode, kept: Kept) -> None:
    offered: dict[str, list[str]] = {}
    for sop_class, syntax, _ in kept.values():
        if syntax not in offered.setdefault(sop_class, []):
            offered[sop_class].append(syntax)
    received = retrieve(node, kept, offered)
    assert received.instances == {uid: (syntax, data) for uid, (_, syntax, data) in kept.items()}


def comes_out_by_wado(node: StepNode, web: WebNode, kept: Kept) -> None:
    for uid, (_, syntax, data) in kept.items():
        stored = node.node.archive.open_instance(uid)
        url = f"{web.url}/studies/{stored.study_uid}/series/{stored.series_uid}/instances/{uid}"
        as_stored = web.client.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert as_stored.status_code == 200, (uid, as_stored.text)
        assert as_stored.content.endswith(data), uid
        plain = web.client.get(url, headers={"Accept": f"application/dicom; transfer-syntax={EXPLICIT}"})
        assert plain.status_code == 200, (uid, syntax, plain.text)
        start = len(plain.content) - len(data) if syntax == EXPLICIT else _start(plain.content)
        same(dataset(data, syntax), dataset(plain.content[start:], EXPLICIT), f"{uid} from {syntax}")


def _start(file: bytes) -> int:
    return read_part10_header(io.BytesIO(file)).dataset_offset
