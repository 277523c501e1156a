"""encode(): which objects come out, always the same bytes, tied to study, source and run."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from datetime import timedelta, timezone

import pytest
from pydicom import Dataset

from dicom_node.results import uids
from dicom_node.results.context import Outcome
from dicom_node.results.encode import encode, nothing_run
from tests.results_cases import MODEL, SERIES, STUDY, context, headers, prediction, read, segment


def test_the_same_run_gives_the_same_bytes() -> None:
    first = encode(prediction(headers()), headers(), context())
    second = encode(prediction(headers()), headers(), context())
    assert [item.kind for item in first] == ["SEG", "SR"]
    assert first == second


def test_another_run_gives_other_instances_in_the_same_series_under_the_same_tracking_uid() -> None:
    sources = headers()
    first = encode(prediction(sources), sources, context())
    second = encode(prediction(sources), sources, context(run_key="run-key-2"))
    for one, other in zip(first, second, strict=True):
        assert one.sop_instance_uid != other.sop_instance_uid
        assert one.series_uid == other.series_uid
    tracking = [read(objects[0]).SegmentSequence[0].TrackingUID for objects in (first, second)]
    assert tracking[0] == tracking[1] == uids.tracking_uid(STUDY, "brain_extraction", "brain")


def test_another_release_is_another_series_and_device() -> None:
    sources = headers()
    newer = dataclasses.replace(MODEL, digest="f" * 64, version="2.0")
    device = uids.device_uid("archive-1", newer.digest)
    old = encode(prediction(sources), sources, context())
    new = encode(prediction(sources, model=newer), sources, context(device_uid=device))
    assert {o.series_uid for o in old}.isdisjoint({o.series_uid for o in new})
    assert read(old[0]).DeviceUID != read(new[0]).DeviceUID


def test_what_is_announced_is_what_is_in_the_data_set() -> None:
    sources = headers()
    for item in encode(prediction(sources), sources, context()):
        dataset = read(item)
        assert item.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert (item.sop_class_uid, item.sop_instance_uid) == (dataset.SOPClassUID, dataset.SOPInstanceUID)
        assert (item.series_uid, item.study_uid) == (dataset.SeriesInstanceUID, dataset.StudyInstanceUID)
        assert dataset.Modality == item.kind
        assert dataset.SeriesInstanceUID != SERIES


def test_only_the_kinds_that_are_asked_for() -> None:
    sources = headers()
    assert [o.kind for o in encode(prediction(sources), sources, context(kinds=("SR",)))] == ["SR"]
    assert [o.kind for o in encode(prediction(sources), sources, context(kinds=("SEG",)))] == ["SEG"]


def test_every_object_says_who_made_it_and_when() -> None:
    sources = headers()
    for item in encode(prediction(sources), sources, context(timezone=timezone(timedelta(hours=1)))):
        dataset = read(item)
        assert (dataset.ContentDate, dataset.ContentTime) == ("20251122", "230000.250000")
        assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == ("20251122", "230000.250000")
        assert "TimezoneOffsetFromUTC" not in dataset
        assert dataset.DeviceUID == context().device_uid
        algorithm, node, scanner = dataset.ContributingEquipmentSequence
        assert (algorithm.Manufacturer, algorithm.ManufacturerModelName) == (MODEL.manufacturer, MODEL.name)
        assert (algorithm.SoftwareVersions, algorithm.DeviceUID) == (MODEL.version, context().device_uid)
        assert algorithm.ContributionDateTime == "20251122230000.250000+0100"
        assert (node.Manufacturer, node.SoftwareVersions, node.StationName) == ("dicom-node", "0.1.0", "DICOMNODE")
        assert (scanner.Manufacturer, scanner.InstitutionName) == ("Scanner maker", "Hospital")


def test_times_follow_the_source_that_states_its_offset() -> None:
    sources = headers(TimezoneOffsetFromUTC="-0530")
    for item in encode(prediction(sources), sources, context(timezone=timezone(timedelta(hours=9)))):
        dataset = read(item)
        assert dataset.TimezoneOffsetFromUTC == "-0530"
        assert (dataset.ContentDate, dataset.ContentTime) == ("20251122", "163000.250000")


def test_a_run_without_findings_gives_a_report_and_no_segmentation() -> None:
    sources = headers()
    empty = prediction(sources, segments=[segment(prediction(sources).segments[0].mask & False)], measurements=[])
    objects = encode(empty, sources, context(outcome=Outcome.NOTHING_FOUND))
    assert [item.kind for item in objects] == ["SR"]


@pytest.mark.parametrize("outcome", [Outcome.NOT_APPLICABLE, Outcome.FAILED])
def test_a_run_that_did_not_come_to_findings_is_told_only_where_asked(outcome: Outcome) -> None:
    sources = headers()
    none = nothing_run(MODEL, sources)
    assert encode(none, sources, context(outcome=outcome, reason="no T1 series")) == []
    told = encode(none, sources, context(outcome=outcome, reason="no T1 series", report_reason=True))
    assert [item.kind for item in told] == ["SR"]


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "PixelSpacing", "SliceThickness", "Rows", "Modality", "FrameOfReferenceUID"])
def test_why_images_were_refused_can_be_told_whatever_they_lack(missing: str) -> None:
    sources = headers()
    for header in (sources[1], sources[0]):
        del header[missing]
    told = context(outcome=Outcome.NOT_APPLICABLE, reason=f"no {missing}", report_reason=True)
    assert [item.kind for item in encode(nothing_run(MODEL, sources), sources, told)] == ["SR"]


def test_sources_are_not_changed() -> None:
    sources = headers()
    before = copy.deepcopy(sources)
    encode(prediction(sources), sources, context())
    assert sources == before


@pytest.mark.parametrize(
    ("sources", "study", "complaint"),
    [
        ([], STUDY, "no source image"),
        (headers(4) + headers(2, SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4"), STUDY, "more than one series"),
        (headers(8), "1.2.3", "another study"),
        (headers(7), STUDY, "not those of the prediction"),
        (headers(8)[::-1], STUDY, "another order"),
    ],
)
def test_what_does_not_belong_together_is_refused(sources: list[Dataset], study: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode(prediction(headers()), sources, context(study_uid=study))


def test_nothing_about_the_patient_is_printed_or_warned() -> None:
    sources = headers(PatientName="Peculiar_Name-1", PatientSex="female", PatientAge="42", PatientBirthDate="1970-01-01")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode(prediction(sources), sources, context())
    assert not caught
