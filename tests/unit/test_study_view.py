"""What the study page makes of rows: which images show a segmentation best, and numbers as places in a chart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO

from dicom_node.results.encode import encode
from dicom_node.results.files import part10
from dicom_node.web.pages.study_pictures import Plane, _largest, fitted, planes_of
from dicom_node.web.pages.study_view import EDGE, HIGH, WIDE, chart_of, results_of, urgency_of
from storage.feedback import FeedbackRecord
from storage.patient_history import Point
from storage.records import RunRecord
from storage.timeline import RunStory, Timeline
from tests.results_cases import context, ellipsoid, enhanced, headers, prediction, segment

RUN = RunRecord(
    7, "key", "1.2", 1, [], [], "chest", "lungs", "1", "digest", {}, [], "COMPLETED", None, "cpu", 0.0, 0.0, 1.0, {}, {}, None, True, None
)
POINT = Point("1.2", "20240101", 0.0, 1, "1", 10.0, "mL")


def seg(sources: list[Dataset], *masks: np.ndarray, **more: object) -> Dataset:
    found = prediction(sources, [segment(mask, number, f"part {number}") for number, mask in enumerate(masks, 1)], [], **more)  # type: ignore[arg-type]
    return dcmread(DicomBytesIO(part10(encode(found, sources, context(sources, kinds=("SEG",)))[0])))


def test_frames_of_a_segmentation_stand_with_the_image_that_they_are_of() -> None:
    sources = headers()
    large, small = ellipsoid(8, 24, 20), np.zeros((8, 24, 20), bool)
    small[4, 3, 3] = True
    planes = planes_of(seg(sources, large, small))
    assert {plane.source for plane in planes} == {str(sources[number].SOPInstanceUID) for number in np.flatnonzero(large.any(axis=(1, 2)))}
    (both,) = [plane for plane in planes if plane.source == str(sources[4].SOPInstanceUID)]
    assert sorted(number for _, number in both.frames) == [1, 2]


def test_frames_of_a_multi_frame_image_are_told_by_their_number() -> None:
    source = enhanced(6)
    mask = ellipsoid(6, 24, 20)
    mask[4:] = False
    planes = planes_of(seg([source], mask, frame_numbers=(1, 2, 3, 4, 5, 6)))
    assert {plane.source for plane in planes} == {str(source.SOPInstanceUID)}
    assert sorted(plane.source_frame for plane in planes) == [int(number) + 1 for number in np.flatnonzero(mask.any(axis=(1, 2)))]


def test_an_object_that_refers_to_no_image_has_no_key_images() -> None:
    assert planes_of(Dataset()) == []
    assert _largest([], lambda frame: 1) == ()


def test_the_largest_extent_of_each_segment_is_shown() -> None:
    planes = [Plane(str(number), 1, ((2 * number + 1, 1), (2 * number + 2, 2))) for number in range(20)]
    sizes = {2 * 17 + 1: 50, 2 * 3 + 2: 9}
    chosen = [plane.source for plane in _largest(planes, lambda frame: sizes.get(frame, 0))]
    assert {"17", "3"} <= set(chosen)
    assert chosen == sorted(chosen, key=int)
    # Where counting would need a decoder for each frame, what lies in the middle is shown.
    assert "10" in [plane.source for plane in _largest(planes, lambda frame: 0)]


def test_pictures_have_square_pixels() -> None:
    assert fitted((64, 128), (0.2, 0.1)) == (160, 640)
    assert fitted((256, 256), None) == (640, 640)


@pytest.mark.parametrize("values", [(1.0, 2.0, 1.5), (3.0, 3.0), (0.0, 0.0, 0.0), (-5.0, 5.0)])
def test_a_chart_stays_in_its_frame(values: tuple[float, ...]) -> None:
    points = [replace(POINT, value=value, study_uid=f"1.{number}") for number, value in enumerate(values)]
    chart = chart_of(points, "1.0")
    assert chart is not None
    assert all(EDGE <= x <= WIDE - EDGE for x, _, _, _ in chart.points)
    assert all(EDGE <= y <= HIGH - EDGE for _, y, _, _ in chart.points)
    assert [own for *_, own in chart.points] == [True, *[False] * (len(values) - 1)]


def test_one_number_makes_no_chart_and_a_corrected_one_counts_as_corrected() -> None:
    assert chart_of([POINT], "1.2") is None
    chart = chart_of([POINT, replace(POINT, corrected=20.0)], "1.2")
    assert chart is not None
    assert (chart.low, chart.high) == (10.0, 20.0)


def test_what_somebody_rejected_is_no_alert_any_more() -> None:
    alerts = [
        {"urgency": "urgent", "finding": "Effusion Volume", "reason": "612 mL"},
        {"urgency": "critical", "finding": "Pneumothorax", "reason": "Present"},
    ]
    found = {
        "segments": [{"label": "Effusion", "voxels": 9}],
        "measurements": [{"name": "Volume", "of": "Effusion", "value": 612.0, "unit": "mL"}],
        "classifications": [{"label": "Pneumothorax", "value": "Present", "positive": True, "probability": 0.9}],
        "alerts": alerts,
    }
    run = replace(RUN, findings=found)

    def told(*findings: str) -> list[str]:
        words = tuple(
            FeedbackRecord(pk, "1.2", 7, "digest", finding, 1, "reject", {}, None, None, "false_positive", "", "ada", 2.0)
            for pk, finding in enumerate(findings)
        )
        story = Timeline(None, (), (), (), (RunStory(run, ()),), (), (), (), (), feedback=words)  # type: ignore[arg-type]
        return [alert["finding"] for alert in urgency_of(results_of(story, {}, "1.2"))]

    assert told() == ["Pneumothorax", "Effusion Volume"]
    assert told("segment:Effusion") == ["Pneumothorax", "Effusion Volume"]
    assert told("classification:Pneumothorax") == ["Effusion Volume"]
    assert told("measurement:Effusion:Volume", "classification:Pneumothorax") == told("result") == []
