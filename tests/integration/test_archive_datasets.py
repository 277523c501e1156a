"""Radiographs through the node, then its archive as a data set, and exported without identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.datasets.archive import ArchiveDataSet, parse_question
from dicom_node.datasets.confidentiality import Option
from dicom_node.datasets.deidentify import Deidentifier, Pseudonyms, traces
from dicom_node.errors import UsageError
from dicom_node.results.encode import encode
from dicom_node.results.files import part10
from models.datasets.loading import load
from models.datasets.protocol import DataSet, Item
from tests.imaging import series, values_of
from tests.node import StepNode, running, send, settings, uid_of
from tests.planar_bundle import planar_bundle, radiograph, shadows
from tests.results_cases import classification, context, ellipsoid, prediction, segment, series_in, unpacked

NAMES = Pseudonyms(b"the secret of one export, in tests")
RULE = """
[[rule]]
name = "lungs"
match = { Modality = "CR" }
run = ["halves"]
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    planar_bundle(tmp_path / "node" / "bundles")
    with running(settings(tmp_path / "node", more=RULE)) as started:
        yield started


def film(patient: str = "P1", **attributes: Any) -> Dataset:
    image = radiograph(
        **{"PixelSpacing": [0.2, 0.1], "PatientAge": "061Y", "Manufacturer": "Maker", "InstitutionName": "Hospital", **attributes}
    )
    image.PatientID = patient
    return image


def data_set(node: StepNode, question: str, folder: Path, *, deidentifier: Deidentifier | None = None) -> ArchiveDataSet:
    return ArchiveDataSet(node.node.archive, parse_question(question), folder, pseudonyms=NAMES, deidentifier=deidentifier)


def sent(node: StepNode, images: Sequence[Dataset], folder: Path) -> None:
    assert set(send(node, images, folder)) == {0}


def test_a_radiograph_comes_back_as_an_image_with_its_mask(node: StepNode, tmp_path: Path) -> None:
    image = film()
    sent(node, [image], tmp_path / "sent")
    node.work()
    (run,) = node.story(uid_of([image])).runs
    assert run.run.state == "COMPLETED"
    data = data_set(node, "Modality=CR&BodyPartExamined=CHEST&task=segmentation&classes=Left lung,Right lung", tmp_path / "data")
    assert isinstance(data, DataSet)
    assert (len(data), data.task, data.classes, list(data.skipped)) == (1, "segmentation", ("Left lung", "Right lung"), [])
    (item,) = data
    sample = load(item, classes=2)
    assert sample.mask is not None
    expected = np.zeros((128, 64), np.uint8)
    expected[shadows() == 1000], expected[shadows() == 500] = 1, 2
    np.testing.assert_array_equal(sample.mask[0].numpy(), expected.T)
    np.testing.assert_array_equal(sample.image[0].numpy(), shadows().T)
    assert item.attributes == {"modality": "CR", "view": "PA", "scanner": "Maker", "site": "Hospital", "age": 61.0}
    assert item.subject.startswith("SUBJECT-")
    assert data_set(node, "Modality=CR&task=segmentation", tmp_path / "all").classes == ("Left lung", "Right lung")


def test_what_a_person_drew_goes_before_what_the_node_made(node: StepNode, tmp_path: Path) -> None:
    image = film()
    sent(node, [image], tmp_path / "sent")
    node.work()
    drawn = np.zeros((1, 128, 64), bool)
    drawn[0, :5, :5] = True
    header = Dataset()
    header.update({element.tag: element for element in image if element.keyword != "PixelData"})
    found = prediction([header], [segment(drawn, 1, "Left lung")], [])
    (seg, *_) = encode(found, [header], context([header], run_key="a person's"))
    path = tmp_path / "drawn.dcm"
    path.write_bytes(part10(seg))
    sent(node, [dcmread(path)], tmp_path / "drawn")
    (item,) = data_set(node, "Modality=CR&task=segmentation&classes=Left lung", tmp_path / "data")
    mask = load(item, classes=1).mask
    assert mask is not None
    assert int(mask.sum()) == 25


def test_labels_come_from_reports(node: StepNode, tmp_path: Path) -> None:
    images = [film("P1"), film("P2"), film("P3")]
    for number, image in enumerate(images[:2]):
        header = Dataset()
        header.update({element.tag: element for element in image if element.keyword != "PixelData"})
        found = prediction([header], [], [], [classification(positive=number == 0)])
        objects = encode(found, [header], context([header], run_key=f"report {number}", kinds=("SR",)))
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(objects[0]))
        sent(node, [image, dcmread(path)], tmp_path / f"sent{number}")
    sent(node, images[2:], tmp_path / "sent2")
    data = data_set(node, "Modality=CR&task=classification&classes=Cardiomegaly", tmp_path / "data")
    assert {item.subject: dict(item.labels) for item in data} == {
        NAMES.subject("P1\\"): {"Cardiomegaly": 1.0},
        NAMES.subject("P2\\"): {"Cardiomegaly": 0.0},
    }
    assert [each.reason for each in data.skipped] == ["no report about it names one of the classes"]


def test_a_volume_is_one_item_and_its_mask_on_its_grid(node: StepNode, tmp_path: Path) -> None:
    images = series(values_of(6, 24, 20), SeriesDescription="T1 head")
    headers = []
    for image in images:
        headers.append(Dataset())
        headers[-1].update({element.tag: element for element in image if element.keyword != "PixelData"})
    mask = ellipsoid(6, 24, 20)
    objects = encode(prediction(headers, [segment(mask)], []), headers, context(headers, kinds=("SEG",)))
    path = tmp_path / "seg.dcm"
    path.write_bytes(part10(objects[0]))
    sent(node, [*reversed(images), dcmread(path)], tmp_path / "sent")
    (item,) = data_set(node, "SeriesDescription=*T1*&task=segmentation", tmp_path / "data")
    assert len(item.image) == 6
    loaded = load(item, classes=1)
    assert loaded.mask is not None
    np.testing.assert_array_equal(loaded.mask[0].numpy(), mask.transpose(2, 1, 0))
    np.testing.assert_allclose(loaded.image.affine, loaded.mask.affine)


@pytest.mark.parametrize(
    ("question", "count"),
    [
        ("Modality=CR", 3),
        ("Modality=CR&ViewPosition=PA", 2),
        ("PatientID=P2", 1),
        ("StudyDate=20240101-20251231&Modality=CR", 3),
        ("StudyDate=20260101-", 0),
        ("Modality=MR\\CR", 3),
        ("BodyPartExamined=CH*", 3),
    ],
)
def test_queries_are_those_of_c_find(question: str, count: int, node: StepNode, tmp_path: Path) -> None:
    sent(node, [film("P1"), film("P1", ViewPosition="LL"), film("P2")], tmp_path / "sent")
    assert len(data_set(node, question, tmp_path / "data")) == count


@pytest.mark.parametrize(
    ("question", "said"),
    [("Modalty=CR", "no keyword"), ("task=magic", "no task"), ("PixelData=1", "PixelData")],
)
def test_questions_that_make_no_sense(question: str, said: str, node: StepNode, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        data_set(node, question, tmp_path / "data")


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_export_holds_nothing_of_the_patient(node: StepNode, tmp_path: Path) -> None:
    images = [film("PATIENT-1", PatientName="Doe^Jane"), film("PATIENT-1", BurnedInAnnotation="YES"), film("PATIENT-2")]
    sent(node, images, tmp_path / "sent")
    node.work()
    data = data_set(node, "Modality=CR&task=segmentation", tmp_path / "out", deidentifier=Deidentifier(NAMES))
    assert len(data) == 2
    assert [each.reason for each in data.skipped] == ["it says that text is burned into its pixels (Burned In Annotation)"]
    assert [each.row for each in data.skipped] == [NAMES.uid(str(images[1].SOPInstanceUID))]
    told = "".join(map(repr, data)).encode()
    originals = {value for image in images for _, value in traces(image)}
    for path in files_below(tmp_path / "out"):
        content = path.read_bytes() + told + str(path).encode()
        assert [value for value in originals if value.encode() in content] == []
    assert {name for item in data for name in item.attributes} == {"modality", "view", "scanner"}
    item: Item = next(iter(data))
    assert load(item, classes=2).mask is not None
    assert len(files_below(tmp_path / "out" / "images")) == 2


def test_an_export_keeps_what_its_options_allow(node: StepNode, tmp_path: Path) -> None:
    sent(node, [film("PATIENT-1", PatientAge="097Y", PatientSex="F")], tmp_path / "sent")
    (item,) = data_set(node, "Modality=CR", tmp_path / "out", deidentifier=Deidentifier(NAMES, frozenset({Option.PATIENT})))
    assert (item.attributes["age"], item.attributes["sex"]) == (90.0, "F")
    assert dcmread(item.image[0]).PatientAge == "090Y"


@pytest.mark.real_data
def test_the_real_chest_film_and_head_leave_no_trace(
    real_data: Path, node: StepNode, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = unpacked(real_data / "mr-t1" / "studyforrest-t1w-384.tar.xz", tmp_path_factory.getbasetemp())
    originals = [dcmread(path) for path, _ in series_in(folder)[100:104]]
    originals.append(dcmread(real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm"))
    sent(node, originals, tmp_path / "sent")
    data = data_set(node, "Modality=MR\\CR", tmp_path / "out", deidentifier=Deidentifier(NAMES))
    assert sorted(len(item.image) for item in data) == [1, 4]
    values = {value for image in originals for _, value in traces(image)}
    assert len(values) > 10
    for path in files_below(tmp_path / "out"):
        content = path.read_bytes()
        assert [value for value in values if value.encode() in content] == []
    film_again = next(item for item in data if len(item.image) == 1)
    np.testing.assert_array_equal(dcmread(film_again.image[0]).pixel_array, originals[-1].pixel_array)
