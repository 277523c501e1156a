"""SEG and SR in a real Orthanc: stored by C-STORE, found by REST, given back byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.dimse.scu import StoreItem, StoreResult, associate
from dicom_node.results.context import EncodedObject
from dicom_node.results.encode import encode
from dicom_node.results.files import part10
from tests.peers.orthanc import Orthanc
from tests.results_cases import STUDY, context, headers, of_kind, prediction, read

pytestmark = pytest.mark.peer("Orthanc")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def deliver(orthanc: Orthanc, objects: Sequence[EncodedObject]) -> list[StoreResult]:
    contexts = [(uid, [objects[0].transfer_syntax_uid]) for uid in dict.fromkeys(item.sop_class_uid for item in objects)]
    with associate(orthanc.host, orthanc.dicom_port, calling_ae="DICOMNODE", called_ae=orthanc.ae_title, contexts=contexts) as association:
        return [association.store(item_of(item)) for item in objects]


def item_of(item: EncodedObject) -> StoreItem:
    return StoreItem(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
        length=len(item.dataset_bytes),
        open=lambda: BytesIO(item.dataset_bytes),
    )


def stored(orthanc: Orthanc, item: EncodedObject) -> bytes:
    (found,) = orthanc.lookup(item.sop_instance_uid)
    return orthanc.instance_bytes(found)


def test_results_arrive_and_are_found(orthanc: Orthanc) -> None:
    sources = headers(SpecificCharacterSet="ISO_IR 192", PatientName="Wang^XiaoDong=王^小東")
    objects = encode(prediction(sources), sources, context())
    assert [result.status for result in deliver(orthanc, objects)] == [0, 0]
    (study,) = [s for s in orthanc.studies() if s["MainDicomTags"]["StudyInstanceUID"] == STUDY]
    assert study["PatientMainDicomTags"]["PatientName"] == "Wang^XiaoDong=王^小東"
    assert sorted(s["MainDicomTags"]["Modality"] for s in orthanc.series(study["ID"])) == ["SEG", "SR"]
    for item in objects:
        assert stored(orthanc, item).endswith(item.dataset_bytes)
    (report,) = orthanc.lookup(of_kind(objects, "SR").sop_instance_uid)
    assert orthanc.tags(report)["VerificationFlag"] == "UNVERIFIED"


def test_sending_again_leaves_one_object(orthanc: Orthanc) -> None:
    sources = headers()
    objects = encode(prediction(sources), sources, context(run_key="sent twice"))
    assert all(result.ok for result in deliver(orthanc, objects))
    before = orthanc.statistics()["CountInstances"]
    assert all(result.ok for result in deliver(orthanc, encode(prediction(sources), sources, context(run_key="sent twice"))))
    assert orthanc.statistics()["CountInstances"] == before
    for item in objects:
        assert stored(orthanc, item).endswith(item.dataset_bytes)


def test_a_rerun_stands_beside_its_predecessor_in_the_same_series(orthanc: Orthanc) -> None:
    sources = headers()
    first = encode(prediction(sources), sources, context(run_key="first"))
    again = context(run_key="again", predecessor_sr_uid=of_kind(first, "SR").sop_instance_uid, instance_number=2)
    second = encode(prediction(sources), sources, again)
    deliver(orthanc, [*first, *second])
    report = read(of_kind(second, "SR"))
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert len(orthanc.lookup(named)) == 1
    assert of_kind(first, "SR").series_uid == of_kind(second, "SR").series_uid


def test_what_orthanc_keeps_survives_its_restart(tmp_path: Path) -> None:
    sources = headers()
    objects = encode(prediction(sources), sources, context())
    with Orthanc(tmp_path / "own") as orthanc:
        deliver(orthanc, objects)
        orthanc.stop()
        orthanc.start()
        for item in objects:
            assert dcmread(BytesIO(stored(orthanc, item))).SOPInstanceUID == dcmread(BytesIO(part10(item))).SOPInstanceUID
