"""A model of several inputs on a real node: a series for each, one grid, one run, one report that names them all."""

from __future__ import annotations

import tarfile
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_node.config import Config
from models.bundle import load_bundle
from models.reader import Stack
from models.stack import read_inputs
from storage.timeline import Timeline
from tests.imaging import as_files, series
from tests.node import StepNode, bright_series, running, send, settings
from tests.several_inputs import pair_bundle

RULE = """
[[rule]]
name = "pair"
match = { Modality = "MR" }
run = ["pair"]
"""


def node(folder: Path, *, more: str = "") -> Config:
    pair_bundle(folder / "bundles", more=more)
    return settings(folder, more=RULE)


def flair(beside: list[Dataset], *, origin: tuple[float, float, float] = (-30.0, -40.0, 50.0), **attributes: object) -> list[Dataset]:
    """The same volume of the patient in twice as large pixels and slices, bright where x, y and z are highest."""
    values = np.full((4, 7, 6), 100, dtype=np.int16)
    values[2:, 4:, 3:] = 1500
    images = series(values, spacing=(1.6, 1.4), step=3.0, origin=origin)
    common = {keyword: beside[0][keyword].value for keyword in ("StudyInstanceUID", "FrameOfReferenceUID")}
    for image in images:
        for keyword, value in {**common, "SeriesDescription": "FLAIR", "SeriesNumber": 2, **attributes}.items():
            setattr(image, keyword, value)
    return images


def told(story: Timeline) -> dict[str, list[str]]:
    return {each.series.series_uid: [choice.reason for choice in each.selections] for each in story.series}


def objects(opened: StepNode, study_uid: str) -> dict[str, Dataset]:
    made = [dcmread(BytesIO(each.read())) for each in opened.node.archive.instances(study_uid)]
    return {str(each.Modality): each for each in made if each.Modality in ("SEG", "SR")}


def test_each_input_gets_its_series_on_the_grid_of_the_first(tmp_path: Path) -> None:
    t1 = bright_series()
    second = flair(t1)
    study_uid = str(t1[0].StudyInstanceUID)
    with running(node(tmp_path)) as opened:
        assert set(send(opened, [*t1, *second], tmp_path / "sent")) == {0}
        opened.work()
        story = opened.story(study_uid)
        (run,) = [each.run for each in story.runs]
        assert run.state == "COMPLETED", run.reason
        uids = [str(images[0].SeriesInstanceUID) for images in (t1, second)]
        assert list(run.series_uids) == uids
        assert run.parameters["inputs"] == {"t1": uids[0], "flair": uids[1]}
        assert {uid for uid, _ in run.input_set} == {str(image.SOPInstanceUID) for image in (*t1, *second)}
        reasons = told(story)
        assert reasons[uids[0]][0] == "input t1: the only series that fits"
        assert reasons[uids[1]][1] == "input flair: the only series that fits"
        made = objects(opened, study_uid)
        assert str(made["SEG"].ReferencedSeriesSequence[0].SeriesInstanceUID) == uids[0]
        evidence = made["SR"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        others = made["SR"].get("PertinentOtherEvidenceSequence", [Dataset()])[0].get("ReferencedSeriesSequence", [])
        assert set(uids) <= {str(each.SeriesInstanceUID) for each in (*evidence, *others)}
        assert f"input flair = series {uids[1]}" in made["SR"].to_json()
        frames = [(frame, *_place(made["SEG"], frame)) for frame in range(int(made["SEG"].NumberOfFrames))]
        lesion = [(z, made["SEG"].pixel_array[frame]) for frame, number, z in frames if number == 2]
        assert {z for z, _ in lesion} == {56.0, 57.5}  # of the T1's slices, 50 to 57.5, those in the FLAIR's bright ones
        assert all(np.argwhere(mask).min(axis=0).tolist() == [8, 6] for _, mask in lesion)  # rows 8 on, columns 6 on: twice 4 and 3


def _place(segmentation: Dataset, frame: int) -> tuple[int, float]:
    groups = segmentation.PerFrameFunctionalGroupsSequence[frame]
    number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return number, float(groups.PlanePositionSequence[0].ImagePositionPatient[2])


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"FrameOfReferenceUID": "1.2.3.4"}, "other-frame-of-reference", "another Frame of Reference"),
        ({"origin": (-30.0, -40.0, 53.0)}, "other-place", "covers 83% of the first input's volume"),
    ],
)
def test_what_does_not_lie_on_the_first_input_is_refused_with_the_reason(
    tmp_path: Path, changed: dict[str, object], code: str, said: str
) -> None:
    t1 = bright_series()
    with running(node(tmp_path)) as opened:
        send(opened, [*t1, *flair(t1, **changed)], tmp_path / "sent")  # type: ignore[arg-type]
        opened.work()
        (run,) = [each.run for each in opened.story(str(t1[0].StudyInstanceUID)).runs]
    assert run.state == "NOT_APPLICABLE"
    assert f"[{code}]" in str(run.reason)
    assert said in str(run.reason)


def test_an_input_without_series_stops_the_model_unless_it_is_optional(tmp_path: Path) -> None:
    t1 = bright_series()
    study_uid = str(t1[0].StudyInstanceUID)
    for name, more, runs in (("needed", "", 0), ("optional", "optional = true", 1)):
        with running(node(tmp_path / name, more=more)) as opened:
            send(opened, t1, tmp_path / "sent")
            opened.work()
            story = opened.story(study_uid)
            assert len(story.runs) == runs
            reasons = told(story)[str(t1[0].SeriesInstanceUID)]
            assert ("but input flair has no series" in reasons[0]) == (runs == 0)
            assert reasons[1] == ("input flair: it is input t1")
            assert all(each.run.state == "COMPLETED" for each in story.runs)


def test_a_late_flair_runs_the_model_on_both(tmp_path: Path) -> None:
    t1 = bright_series()
    with running(node(tmp_path, more="optional = true")) as opened:
        for images in (t1, flair(t1)):
            send(opened, images, tmp_path / "sent")
            opened.work()
        runs = [each.run for each in opened.story(str(t1[0].StudyInstanceUID)).runs]
    assert [len(each.series_uids) for each in runs] == [1, 2]
    assert runs[1].predecessor_pk == runs[0].pk


@pytest.mark.real_data
def test_a_real_head_on_two_grids_is_one_input(real_data: Path, tmp_path: Path) -> None:
    """A real T1 beside the same in twice as large voxels: where both have a voxel they are equal, and a node runs the model on both."""
    fine = real_slices(real_data, 12)
    coarse = [halved(image) for image in fine[::2]]
    for image in fine:
        image.SeriesDescription = "T1"
    pair_bundle(tmp_path / "bundles", threshold=2 * float(np.mean([image.pixel_array for image in fine])))
    with running(settings(tmp_path, more=RULE)) as opened:
        assert set(send(opened, [*fine, *coarse], tmp_path / "sent")) == {0}
        opened.work()
        (run,) = [each.run for each in opened.story(str(fine[0].StudyInstanceUID)).runs]
    assert run.state == "COMPLETED", run.reason
    first, second = (each["voxels"] for each in run.findings["segments"])
    assert min(first, second) > 10_000
    stack = read_inputs(load_bundle(tmp_path / "bundles" / "pair").dicom, [as_files(fine), as_files(coarse)])
    assert isinstance(stack, Stack)
    shared = [np.abs(stack.channels[0, start::2, ::2, ::2] - stack.channels[1, start::2, ::2, ::2]).max() for start in (0, 1)]
    assert min(shared) < 0.1  # in stored values of up to thousands; the other slices are interpolated
    assert max(shared) > 1


def real_slices(real_data: Path, count: int) -> list[Dataset]:
    """Neighbouring slices from the middle of a real head, in order."""
    (archive,) = (real_data / "mr-t1").glob("*.tar.xz")
    with tarfile.open(archive) as tar:
        found = [(member.name, tar.extractfile(member)) for member in tar if member.name.endswith(".dcm")]
        images: list[Dataset] = [dcmread(BytesIO(file.read())) for _, file in found if file is not None]
    images.sort(key=lambda image: int(image.InstanceNumber))
    middle = len(images) // 2
    return images[middle : middle + count]


def halved(image: Dataset) -> Dataset:
    """Every second row and column of an image, as an image of another series."""
    other = deepcopy(image)
    pixels = image.pixel_array[::2, ::2]
    other.Rows, other.Columns = pixels.shape
    other.PixelSpacing = [2 * float(value) for value in image.PixelSpacing]
    other.PixelData = np.ascontiguousarray(pixels).tobytes()
    other.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    other.SeriesInstanceUID = generate_uid(entropy_srcs=[str(image.SeriesInstanceUID), "halved"])
    other.SOPInstanceUID = generate_uid(entropy_srcs=[str(image.SOPInstanceUID), "halved"])
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.SeriesDescription = "FLAIR"
    return other
