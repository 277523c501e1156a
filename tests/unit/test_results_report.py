"""The SR says what was found, by whom, on what, and that nobody has verified it yet."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.results import uids
from dicom_node.results.context import Outcome
from dicom_node.results.encode import encode, nothing_run
from dicom_node.results.readback import ReadbackMismatch, verify
from tests.results_cases import (
    MODEL,
    SERIES,
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
    volume,
)


def children(item: Dataset, code: str) -> list[Dataset]:
    return [c for c in item.get("ContentSequence", []) if c.ConceptNameCodeSequence[0].CodeValue == code]


def child(item: Dataset, code: str) -> Dataset:
    (found,) = children(item, code)
    return found


def groups(report: Dataset) -> list[Dataset]:
    return children(child(report, "126010"), "125007")


def code(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeValue)


def test_document_header() -> None:
    sources = headers()
    report = read(of_kind(encode(prediction(sources), sources, context()), "SR"))
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert "PredecessorDocumentsSequence" not in report
    assert child(report, "121058").ConceptCodeSequence[0].CodeMeaning == "MRI unspecified body region"
    assert code(child(report, "121005")) == "121007"
    assert context().device_uid == child(report, "121012").UID
    assert child(report, "121013").TextValue == "DICOMNODE"


def test_evidence_is_every_image_and_the_segmentation_by_study_and_series() -> None:
    sources = headers()
    objects = encode(prediction(sources), sources, context())
    report = read(of_kind(objects, "SR"))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    by_series = {s.SeriesInstanceUID: [i.ReferencedSOPInstanceUID for i in s.ReferencedSOPSequence] for s in study.ReferencedSeriesSequence}
    seg = of_kind(objects, "SEG")
    assert study.StudyInstanceUID == STUDY
    assert by_series == {SERIES: [h.SOPInstanceUID for h in sources], seg.series_uid: [seg.sop_instance_uid]}


def test_a_segment_has_its_group() -> None:
    sources = headers()
    objects = encode(prediction(sources), sources, context())
    seg, report = read(of_kind(objects, "SEG")), read(of_kind(objects, "SR"))
    (group,) = groups(report)
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1411"
    assert child(group, "112039").TextValue == seg.SegmentSequence[0].TrackingID == "brain"
    assert seg.SegmentSequence[0].TrackingUID == child(group, "112040").UID
    assert code(child(group, "121071")) == "12738006"
    reference = child(group, "121191").ReferencedSOPSequence[0]
    assert (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber) == (seg.SOPInstanceUID, 1)
    assert child(group, "121232").UID == SERIES
    assert (child(group, "111001").TextValue, child(group, "111003").TextValue) == (MODEL.name, MODEL.version)
    assert code(child(group, "111000")) == "123110"
    parameters = [item.TextValue for item in children(group, "111002")]
    assert parameters == [f"release digest = {MODEL.digest}", "network = unet"]
    measured = child(group, "118565006").MeasuredValueSequence[0]
    assert float(measured.NumericValue) == 1234.5
    unit = measured.MeasurementUnitsCodeSequence[0]
    assert (unit.CodeValue, unit.CodingSchemeDesignator) == ("ml", "UCUM")


def test_a_group_names_the_frames_of_an_enhanced_source() -> None:
    source = enhanced(4)
    mask = np.ones((3, 24, 20), bool)
    objects = encode(prediction([source], [segment(mask)], frame_numbers=(4, 3, 2)), [source], context())
    image = child(groups(read(of_kind(objects, "SR")))[0], "121233").ReferencedSOPSequence[0]
    assert (image.ReferencedSOPInstanceUID, list(image.ReferencedFrameNumber)) == (source.SOPInstanceUID, [2, 3, 4])


def test_one_image_has_a_planar_group() -> None:
    sources = headers(1)
    objects = encode(prediction(sources, [segment(np.ones((1, 24, 20), bool))]), sources, context())
    (group,) = groups(read(of_kind(objects, "SR")))
    assert group.ContentTemplateSequence[0].TemplateIdentifier == "1410"
    assert child(group, "121214").ReferencedSOPSequence[0].ReferencedFrameNumber == 1
    assert child(group, "121233").ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sources[0].SOPInstanceUID


def test_found_nothing_says_so_and_says_what_was_looked_for() -> None:
    sources = headers()
    empty = prediction(sources, [segment(ellipsoid(8, 24, 20) & False)], measurements=[])
    report = read(of_kind(encode(empty, sources, context(outcome=Outcome.NOTHING_FOUND)), "SR"))
    statement, absent = groups(report)
    assert code(child(statement, "111065")) == "111222"
    assert code(child(statement, "121071")) == "121054"
    assert "found nothing" in child(statement, "121106").TextValue
    assert (code(child(absent, "121071")), code(child(absent, "121052"))) == ("12738006", "121054")
    assert uids.tracking_uid(STUDY, "brain_extraction", "brain") == child(absent, "112040").UID


def test_found_nothing_at_all_is_still_a_report() -> None:
    sources = headers()
    report = read(of_kind(encode(prediction(sources, [], []), sources, context()), "SR"))
    assert code(child(groups(report)[0], "111065")) == "111222"


@pytest.mark.parametrize(("outcome", "state"), [(Outcome.NOT_APPLICABLE, "111225"), (Outcome.FAILED, "111224")])
def test_the_three_negatives_read_differently(outcome: Outcome, state: str) -> None:
    sources = headers()
    told = context(outcome=outcome, reason="The slices are 9 mm apart.", report_reason=True)
    (group,) = groups(read(of_kind(encode(nothing_run(MODEL, sources), sources, told), "SR")))
    assert code(child(group, "111065")) == state
    assert child(group, "121106").TextValue.endswith("The slices are 9 mm apart.")
    assert not children(group, "121071")


def test_classifications_are_coded_evaluations_with_their_probability() -> None:
    sources = headers()
    found = prediction(sources, [], [], [classification(), classification(positive=False)])
    positive, negative = groups(read(of_kind(encode(found, sources, context()), "SR")))
    assert positive.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert (code(child(positive, "89138009")), code(child(negative, "89138009"))) == ("10828004", "260385009")
    assert float(child(positive, "2339001").MeasuredValueSequence[0].NumericValue) == 0.875
    assert "threshold for cardiomegaly = 0.5" in [i.TextValue for i in children(positive, "111002")]


def test_measurements_of_the_whole_input_have_their_own_group() -> None:
    sources = headers()
    found = prediction(sources, measurements=[volume(10.0), volume(99.0, of=None)])
    segmented, whole = groups(read(of_kind(encode(found, sources, context()), "SR")))
    assert float(child(segmented, "118565006").MeasuredValueSequence[0].NumericValue) == 10.0
    assert float(child(whole, "118565006").MeasuredValueSequence[0].NumericValue) == 99.0


def test_without_a_segmentation_the_numbers_still_arrive() -> None:
    sources = headers()
    (group,) = groups(read(of_kind(encode(prediction(sources), sources, context(kinds=("SR",))), "SR")))
    assert not children(group, "121191")
    assert float(child(group, "118565006").MeasuredValueSequence[0].NumericValue) == 1234.5


def test_a_rerun_names_its_predecessor() -> None:
    sources = headers()
    again = context(run_key="run-key-2", predecessor_sr_uid="1.2.3.4")
    report = read(of_kind(encode(prediction(sources), sources, again), "SR"))
    (study,) = report.PredecessorDocumentsSequence
    series = study.ReferencedSeriesSequence[0]
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY, report.SeriesInstanceUID)
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"


def test_the_procedure_is_the_one_the_source_names() -> None:
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "MRHEAD", "99LOCAL", "MR head plain"
    sources = headers(ProcedureCodeSequence=[procedure])
    assert code(child(read(of_kind(encode(prediction(sources), sources, context()), "SR")), "121058")) == "MRHEAD"


def test_a_number_is_shown_with_six_digits_and_kept_with_all() -> None:
    sources = headers()
    found = prediction(sources, measurements=[volume(1791.6709090824497)])
    (group,) = groups(read(of_kind(encode(found, sources, context()), "SR")))
    value = child(group, "118565006").MeasuredValueSequence[0]
    assert str(value.NumericValue) == "1791.67"
    assert value.FloatingPointValue == 1791.6709090824497


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "114000"), (float("-inf"), "114001"), (float("inf"), "114002")])
def test_what_is_no_number_says_why(value: float, why: str) -> None:
    sources = headers()
    found = prediction(sources, measurements=[volume(value)])
    objects = encode(found, sources, context())
    item = child(groups(read(of_kind(objects, "SR")))[0], "118565006")
    assert code(item) == why
    verify(objects, found)
    with pytest.raises(ReadbackMismatch):
        verify(objects, prediction(sources, measurements=[volume(1.0)]))
