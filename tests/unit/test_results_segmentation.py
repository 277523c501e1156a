"""The Segmentation: types, frames, references, codes, and equality with what highdicom itself would write."""

from __future__ import annotations

import dataclasses

import highdicom
import numpy as np
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import Dataset

from dicom_node.results.encode import encode
from dicom_node.results.readback import verify
from models.findings import Segment
from tests.results_cases import MODEL, SERIES, context, ellipsoid, enhanced, headers, of_kind, prediction, read, segment


def seg_of(sources: list[Dataset], segments: list[Segment] | None = None, **more: object) -> Dataset:
    found = prediction(sources, segments=segments, **more)  # type: ignore[arg-type]
    objects = encode(found, sources, context())
    verify(objects, found)
    return read(of_kind(objects, "SEG"))


def test_what_a_reader_needs_is_there() -> None:
    sources = headers()
    mask = ellipsoid(8, 24, 20)
    dataset = seg_of(sources)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert dataset.ImageType == ["DERIVED", "PRIMARY"]
    assert (dataset.SegmentationType, dataset.BitsAllocated) == ("BINARY", 1)
    assert dataset.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    referenced = dataset.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == SERIES
    assert [i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence] == [h.SOPInstanceUID for h in sources]
    described = dataset.SegmentSequence[0]
    assert described.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert described.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"
    assert (described.SegmentAlgorithmType, described.SegmentAlgorithmName) == ("AUTOMATIC", MODEL.name)
    algorithm = described.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmVersion, algorithm.AlgorithmSource) == (MODEL.version, MODEL.manufacturer)
    assert MODEL.digest in algorithm.AlgorithmParameters
    assert len(described.RecommendedDisplayCIELabValue) == 3
    assert int(dataset.NumberOfFrames) == int(mask.any(axis=(1, 2)).sum()) < 8


def test_every_frame_refers_to_the_image_it_was_drawn_on() -> None:
    sources = headers()
    by_uid = {header.SOPInstanceUID: header for header in sources}
    dataset = seg_of(sources)
    referenced = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        derivation = frame.DerivationImageSequence[0].SourceImageSequence[0]
        referenced.append(by_uid[derivation.ReferencedSOPInstanceUID])
        assert frame.PlanePositionSequence[0].ImagePositionPatient == referenced[-1].ImagePositionPatient
    planes = np.flatnonzero(ellipsoid(8, 24, 20).any(axis=(1, 2)))
    assert {header.SOPInstanceUID for header in referenced} == {sources[plane].SOPInstanceUID for plane in planes}


def test_an_enhanced_source_is_referred_to_by_frame() -> None:
    source = enhanced(6)
    numbers = (6, 5, 4, 3, 2, 1)  # stored from the top down; the volume runs upwards
    mask = np.zeros((6, 24, 20), bool)
    mask[1, 3:9, 4:8] = mask[2, 3:6, 4:6] = True
    dataset = seg_of([source], segments=[segment(mask)], frame_numbers=numbers)
    references = [f.DerivationImageSequence[0].SourceImageSequence[0] for f in dataset.PerFrameFunctionalGroupsSequence]
    assert [r.ReferencedSOPInstanceUID for r in references] == [source.SOPInstanceUID] * 2
    positions = [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in dataset.PerFrameFunctionalGroupsSequence]
    assert {int(r.ReferencedFrameNumber): z for r, z in zip(references, positions, strict=True)} == {5: 7.0, 4: 9.0}


def test_an_enhanced_source_of_which_a_part_is_used() -> None:
    source = enhanced(6)
    dataset = seg_of([source], frame_numbers=(4, 3, 2), segments=[segment(np.ones((3, 24, 20), bool))])
    references = [f.DerivationImageSequence[0].SourceImageSequence[0] for f in dataset.PerFrameFunctionalGroupsSequence]
    assert {int(r.ReferencedFrameNumber) for r in references} == {4, 3, 2}


def test_an_enhanced_source_of_one_frame() -> None:
    source = enhanced(1)
    assert int(seg_of([source], segments=[segment(np.ones((1, 24, 20), bool))], frame_numbers=(1,)).NumberOfFrames) == 1


def test_a_probability_makes_a_fractional_object() -> None:
    sources = headers()
    mask = ellipsoid(8, 24, 20)
    probability = (mask * np.linspace(0.2, 1.0, 20)).astype(np.float32)
    dataset = seg_of(sources, [segment(mask, probability=probability)])
    assert (dataset.SegmentationType, dataset.SegmentationFractionalType, dataset.BitsAllocated) == ("FRACTIONAL", "PROBABILITY", 8)


def test_binary_and_fractional_segments_part() -> None:
    sources = headers()
    mask = ellipsoid(8, 24, 20)
    found = prediction(
        sources, [segment(mask), segment(mask, 2, "lesion", mask.astype(np.float32) * 0.5), segment(mask, 3, "skull")], measurements=[]
    )
    objects = encode(found, sources, context())
    assert [item.kind for item in objects] == ["SEG", "SEG", "SR"]
    assert len({item.sop_instance_uid for item in objects}) == 3
    verify(objects, found)


@pytest.mark.parametrize("overlap", [False, True])
def test_several_segments(overlap: bool) -> None:
    sources = headers()
    one, other = np.zeros((2, 8, 24, 20), bool)
    one[2:5, 4:10, 4:10] = True
    other[4:6, 8:14, 12:18] = True
    if overlap:
        other[4, 5:9, 5:9] = True
    dataset = seg_of(sources, [segment(one), segment(other, 2, "skull")])
    assert dataset.SegmentsOverlap == ("YES" if overlap else "NO")
    assert len({tuple(s.RecommendedDisplayCIELabValue) for s in dataset.SegmentSequence}) == 1
    assert [s.SegmentNumber for s in dataset.SegmentSequence] == [1, 2]


def test_segments_without_a_colour_get_different_ones() -> None:
    one, other = np.zeros((2, 8, 24, 20), bool)
    one[2, 2, 2] = other[3, 3, 3] = True
    plain = [dataclasses.replace(s, color=None) for s in (segment(one), segment(other, 2, "skull"))]
    dataset = seg_of(headers(), plain)
    assert len({tuple(s.RecommendedDisplayCIELabValue) for s in dataset.SegmentSequence}) == 2


def test_a_segment_without_a_voxel_is_not_described() -> None:
    mask = ellipsoid(8, 24, 20)
    dataset = seg_of(headers(), [segment(mask & False), segment(mask, 2, "skull")])
    assert [s.TrackingID for s in dataset.SegmentSequence] == ["skull"]
    assert dataset.SegmentSequence[0].SegmentNumber == 1


def test_the_image_part_is_what_highdicom_writes_for_the_same_sources() -> None:
    sources = headers()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        MODEL.name, highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"), MODEL.version
    )
    code = highdicom.sr.CodedConcept
    described = SegmentDescription(
        1,
        "Brain",
        code("123037004", "SCT", "Anatomical Structure"),
        code("12738006", "SCT", "Brain"),
        SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm,
    )
    theirs = Segmentation(
        sources,
        ellipsoid(8, 24, 20).astype(np.uint8),
        SegmentationTypeValues.BINARY,
        [described],
        "1.2.3",
        1,
        "1.2.4",
        1,
        "a",
        "b",
        "c",
        "d",
    )
    ours = seg_of(sources)
    for keyword in [
        "NumberOfFrames",
        "Rows",
        "Columns",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "ReferencedSeriesSequence",
        "SourceImageSequence",
        "FrameOfReferenceUID",
        "PatientName",
        "PatientID",
        "PatientAge",
        "StudyDate",
        "StudyDescription",
        "SegmentsOverlap",
        "ImageType",
        "PhotometricInterpretation",
        "DimensionOrganizationType",
        "LossyImageCompression",
    ]:
        assert plain(ours)[keyword] == plain(theirs)[keyword], keyword
    assert ours.PixelData == theirs.PixelData
    assert {e.tag for e in theirs} - {e.tag for e in ours} <= {0x00080005}


@pytest.mark.parametrize("missing", ["FrameOfReferenceUID", "SliceThickness"])
def test_a_source_that_lacks_what_a_segmentation_must_have(missing: str) -> None:
    sources = headers(SpacingBetweenSlices=99)
    for header in sources:
        del header[missing]
    dataset = seg_of(sources)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (float(measures.SliceThickness), float(measures.SpacingBetweenSlices)) == (2.0, 2.0)
    assert dataset.FrameOfReferenceUID == seg_of(sources).FrameOfReferenceUID


def test_orientations_that_differ_in_the_last_digit() -> None:
    sources = headers()
    sources[3].ImageOrientationPatient = [1, 0, 0.0000001, 0, 1, 0]
    seg_of(sources)


def plain(dataset: Dataset) -> dict[str, object]:
    """Values by keyword as DICOM JSON, free of highdicom's own classes and comparisons."""
    return {element.keyword: element.to_json_dict(None, 0) for element in dataset}
