"""Result objects before independent judges: dicom3tools, PixelMed, dcmqi, DCMTK, highdicom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from dicom_node.results.attributes import copied
from dicom_node.results.charset import policy_for
from dicom_node.results.context import EncodedObject, Outcome
from dicom_node.results.encode import encode, nothing_run
from dicom_node.results.readback import verify
from models.findings import Code, Measurement, Prediction
from models.planar import METHODS, PixelPlane
from tests.peers.tools import iod_errors, output, study_complaints, template_errors
from tests.planar_bundle import radiograph
from tests.results_cases import (
    MODEL,
    STUDY,
    classification,
    context,
    ellipsoid,
    enhanced,
    headers,
    of_kind,
    prediction,
    read,
    segment,
    series_in,
    unpacked,
    volume,
    write,
)

VALIDATOR = pytest.mark.peer("DicomSRValidator")


def judged(found: Prediction, sources: Sequence[Dataset], folder: Path, **more: object) -> list[EncodedObject]:
    """Encode, read back, and have every object accepted by dciodvfy."""
    objects = encode(found, sources, context(sources, **more))
    verify(objects, found)
    for path in write(objects, folder):
        assert iod_errors(path) == [], path.name
    return objects


def two_overlapping(count: int, rows: int, columns: int) -> list[NDArray[np.bool_]]:
    return [ellipsoid(count, rows, columns), ellipsoid(count, rows, columns, scale=0.2)]


CASES = {
    "findings": prediction(headers()),
    "classification": prediction(headers(), [], [volume(7.5, of=None)], [classification()]),
    "mixed": prediction(headers(), classifications=[classification()], measurements=[volume(), volume(7.5, of=None)]),
    "fractional": prediction(headers(), [segment(m, probability=m * np.float32(0.6)) for m in [ellipsoid(8, 24, 20)]]),
    "overlapping": prediction(headers(), [segment(m, n, f"part {n}") for n, m in enumerate(two_overlapping(8, 24, 20), 1)]),
    "negative": prediction(headers(), [segment(ellipsoid(8, 24, 20) & False)], [], [classification(positive=False)]),
    "nothing": prediction(headers(), [], []),
    "no number": prediction(headers(), measurements=[volume(float("nan"))]),
}


@pytest.mark.parametrize("case", CASES)
def test_dciodvfy_finds_no_error(case: str, tmp_path: Path) -> None:
    judged(CASES[case], headers(), tmp_path)


@VALIDATOR
@pytest.mark.parametrize("case", ["findings", "classification", "negative", "nothing", "no number"])
def test_dicomsrvalidator_accepts_the_template(case: str, tmp_path: Path) -> None:
    objects = judged(CASES[case], headers(), tmp_path)
    assert template_errors(write([of_kind(objects, "SR")], tmp_path)[0]) == []


@VALIDATOR
def test_dicomsrvalidator_sees_no_more_in_a_report_of_both_kinds_of_group(tmp_path: Path) -> None:
    """It judges every group after the first one's template, so it misses the region in groups that have none by design."""
    (path,) = write([of_kind(judged(CASES["mixed"], headers(), tmp_path), "SR")], tmp_path)
    errors = template_errors(path)
    assert [e for e in errors if not ("Template 1411" in e and "Missing conditional content item" in e)] == []


@VALIDATOR
@pytest.mark.parametrize("outcome", [Outcome.NOT_APPLICABLE, Outcome.FAILED])
def test_dicomsrvalidator_accepts_the_reports_of_runs_without_result(outcome: Outcome, tmp_path: Path) -> None:
    sources = headers()
    told = judged(nothing_run(MODEL, sources), sources, tmp_path, outcome=outcome, reason="No T1 series.", report_reason=True)
    assert template_errors(write(told, tmp_path)[0]) == []


@VALIDATOR
def test_an_enhanced_source_and_a_rerun(tmp_path: Path) -> None:
    source = enhanced(6)
    found = prediction([source], frame_numbers=(6, 5, 4, 3, 2, 1))
    objects = judged(found, [source], tmp_path, predecessor_sr_uid="1.2.3.4")
    assert template_errors(write([of_kind(objects, "SR")], tmp_path)[0]) == []


def test_one_image(tmp_path: Path) -> None:
    sources = headers(1)
    judged(prediction(sources, [segment(np.ones((1, 24, 20), bool))]), sources, tmp_path)


def test_orders_and_trials(tmp_path: Path) -> None:
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP1", "SPS1"
    sources = headers(
        RequestAttributesSequence=[request], ClinicalTrialSponsorName="S", ClinicalTrialProtocolID="T-7", ClinicalTrialSubjectID="7"
    )
    judged(prediction(sources), sources, tmp_path)


@pytest.mark.peer("dsrdump")
def test_dcmtk_reads_the_report_without_complaint(tmp_path: Path) -> None:
    (path,) = write([of_kind(encode(CASES["mixed"], headers(), context()), "SR")], tmp_path)
    tree = output("/usr/bin/dsrdump", "-Ec", path, ok=(0,))
    for said in ("Imaging Measurement Report", '"Volume")="1234.5" (ml,UCUM', "release digest", "Cardiomegaly", "Positive"):
        assert said in tree
    assert not [line for line in tree.splitlines() if line.startswith(("W:", "E:"))]


@pytest.mark.real_data
@pytest.mark.slow
@VALIDATOR
def test_the_real_t1_series(real_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpacked(real_data / "mr-t1" / "studyforrest-t1w-384.tar.xz", tmp_path_factory.getbasetemp())
    series = series_in(folder)
    sources = [header for _, header in series]
    mask = ellipsoid(len(sources), int(sources[0].Rows), int(sources[0].Columns), scale=0.39)
    found = prediction(sources, [segment(mask)], [volume(float(mask.sum()) * voxel_ml(sources))])
    objects = judged(found, sources, tmp_path)
    assert len(sources) == 384
    assert int(read(of_kind(objects, "SEG")).NumberOfFrames) == int(mask.any(axis=(1, 2)).sum())
    seg_path, sr_path = write(objects, tmp_path)
    assert template_errors(sr_path) == []
    # The source's own PatientAge "42" has no unit; it is not taken over, and dcentvfy sees that.
    complaints = study_complaints([path for path, _ in series] + [seg_path, sr_path])
    assert [line for line in complaints if "<PatientAge>" not in line] == []
    dcmqi_agrees(seg_path, sr_path, sources, mask, found)


@pytest.mark.real_data
@VALIDATOR
def test_the_real_head_ct(real_data: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpacked(real_data / "ct" / "philips-head-5mm.tar.xz", tmp_path_factory.getbasetemp())
    series = series_in(folder)
    sources = [header for _, header in series]
    mask = ellipsoid(len(sources), 512, 512)
    found = prediction(sources, [segment(mask)], [volume(float(mask.sum()) * voxel_ml(sources))])
    seg_path, sr_path = write(judged(found, sources, tmp_path), tmp_path)
    assert template_errors(sr_path) == []
    # The images refer to a scout and a performed procedure step that are not in the folder.
    complaints = study_complaints([path for path, _ in series] + [seg_path, sr_path])
    assert [line for line in complaints if seg_path.name in line or sr_path.name in line] == []
    dcmqi_agrees(seg_path, sr_path, sources, mask, found)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["6_1.dcm", "eCT_Supplemental.dcm"])
def test_real_enhanced_objects(name: str, real_data: Path, tmp_path: Path) -> None:
    source = dcmread(real_data / "multiframe" / name, stop_before_pixels=True)
    count = int(source.NumberOfFrames)
    mask = ellipsoid(count, int(source.Rows), int(source.Columns), scale=0.5)
    mask[0, 3:9, 3:9] = True
    judged(prediction([source], [segment(mask)], frame_numbers=tuple(range(1, count + 1))), [source], tmp_path)


@pytest.mark.real_data
def test_sources_in_many_character_sets(real_data: Path, tmp_path: Path) -> None:
    for name in ("chrArab", "chrHbrw", "chrH31", "chrI2", "chrX1", "chrRuss", "chrGreek", "chrFren"):
        named = dcmread(real_data / "charsets" / f"{name}.dcm", stop_before_pixels=True)
        terms = named.SpecificCharacterSet
        sources = headers(SpecificCharacterSet=terms)
        for header in sources:
            header.PatientName = named.PatientName
        objects = judged(prediction(sources), sources, tmp_path)
        for item in objects:
            assert str(read(item).PatientName).rstrip("=") == str(named.PatientName).rstrip("="), name


def test_a_source_in_gb18030(tmp_path: Path) -> None:
    sources = headers(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东")
    for item in judged(prediction(sources), sources, tmp_path):
        assert str(read(item).PatientName) == "Wang^XiaoDong=王^小东"
        name = copied(sources[0], ["PatientName"], policy_for(("GB18030",), "é"))
        assert str(name.PatientName) == "Wang^XiaoDong=王^小东"


def dcmqi_agrees(seg_path: Path, sr_path: Path, sources: Sequence[Dataset], mask: NDArray[np.bool_], found: Prediction) -> None:
    """dcmqi reads the same volume from the SR and the same voxels, at the same places, from the SEG."""
    out = seg_path.parent / "dcmqi"
    out.mkdir()
    output("tid1500reader", "--inputDICOM", sr_path, "--outputMetadata", out / "sr.json", ok=(0,))
    (group,) = json.loads((out / "sr.json").read_text())["Measurements"]
    assert group["TrackingIdentifier"] == "brain"
    assert group["TrackingUniqueIdentifier"] == read_file(seg_path).SegmentSequence[0].TrackingUID
    assert float(group["measurementItems"][0]["value"]) == pytest.approx(found.measurements[0].value, rel=1e-5)
    output("segimage2itkimage", "--inputDICOM", seg_path, "--outputDirectory", out, "-p", "m", "-t", "nii", ok=(0,))
    image = nibabel.load(out / "m-1.nii.gz")
    to_ours = np.linalg.inv(affine_of(sources)) @ np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # their voxels > RAS > LPS > ours
    column, row, plane = (to_ours[axis, :3] @ np.argwhere(np.asarray(image.dataobj) > 0).T + to_ours[axis, 3] for axis in range(3))
    indices = [np.rint(values).astype(int) for values in (plane, row, column)]
    assert max(np.abs(values - whole).max() for values, whole in zip((plane, row, column), indices, strict=True)) < 0.02
    theirs = np.zeros_like(mask)
    theirs[tuple(indices)] = True
    assert np.array_equal(theirs, mask)


def read_file(path: Path) -> Dataset:
    return dcmread(path)


def affine_of(sources: Sequence[Dataset]) -> NDArray[np.float64]:
    """(column, row, plane) to patient coordinates (LPS, mm), from the headers alone (PS3.3 C.7.6.2.1.1)."""
    first, last = (np.array([float(v) for v in header.ImagePositionPatient]) for header in (sources[0], sources[-1]))
    orientation = np.array([float(v) for v in sources[0].ImageOrientationPatient])
    between_rows, between_columns = (float(v) for v in sources[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * between_columns, orientation[3:] * between_rows
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(sources) - 1), first
    return affine


def voxel_ml(sources: Sequence[Dataset]) -> float:
    return float(abs(np.linalg.det(affine_of(sources)))) / 1000


# The validator of 2022 knows an older edition of CID 100, without the code for radiographs.
_OLD_CID_100 = "(43468-8,LN"


@pytest.mark.parametrize("size", [{"PixelSpacing": [0.2, 0.2]}, {"ImagerPixelSpacing": [0.2, 0.2]}, {"FrameOfReferenceUID": "1.2.3"}])
def test_a_radiograph(size: dict[str, Any], tmp_path: Path) -> None:
    source = radiograph(**size)
    del source.PixelData
    source.StudyInstanceUID = STUDY
    half = np.zeros((1, 128, 64), bool)
    half[0, 20:60, 8:24] = True
    found = prediction([source], [segment(half, 1, "right"), segment(half[:, :, ::-1].copy(), 2, "left")], [area(1), area(2)])
    objects = judged(found, [source], tmp_path)
    seg = read(of_kind(objects, "SEG"))
    assert "FrameOfReferenceUID" not in seg
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]
    assert list(seg.PatientOrientation) == ["L", "F"]
    reference = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID


@pytest.mark.real_data
@VALIDATOR
def test_the_real_chest_film(real_data: Path, tmp_path: Path) -> None:
    source = dcmread(real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm", stop_before_pixels=True)
    half = np.zeros((1, 1024, 1024), bool)
    half[0, 200:700, 150:400] = True
    objects = judged(prediction([source], [segment(half)], [area(1)]), [source], tmp_path)
    paths = write(objects, tmp_path)
    errors = template_errors(paths[-1])
    assert [error for error in errors if _OLD_CID_100 not in error] == []
    # The source's own PatientAge "62" has no unit; it is not taken over, and dcentvfy sees that.
    complaints = study_complaints([real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm", *paths])
    assert [line for line in complaints if "<PatientAge>" not in line] == []


def area(of: int) -> Measurement:
    return Measurement(Code("42798000", "SCT", "Area"), 12.5, Code("cm2", "UCUM", "square centimeter"), of, METHODS[PixelPlane.DETECTOR])
