"""Which findings of a run are urgent, as dicom.toml says."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.work.inference import shown
from models import alerts
from models.errors import BundleInvalid
from models.findings import Classification, Code, Measurement, ModelIdentity, Prediction, Segment, Timings
from models.spec import DicomSpec, parse_spec

CODE = '{ value = "1", scheme = "99TEST", meaning = "%s" }'
MODEL = """
[model]
name = "chest"
version = "1"
manufacturer = "m"
intended_use = "t"
licence = "l"
"""
SEGMENTS = f"""{MODEL}
[[segment]]
label = "effusion"
category = {CODE % "c"}
type = {CODE % "t"}
[[measurement]]
quantity = "volume"
segment = "effusion"
"""
SCORES = f"""{MODEL}
[output]
form = "scores"
[[classification]]
label = "Pneumothorax"
channel = 0
urgency = "critical"
name = {CODE % "Pneumothorax"}
positive = {CODE % "Present"}
negative = {CODE % "Absent"}
"""
IDENTITY = ModelIdentity("chest", "1", "m", "0" * 64, Code("1", "99TEST", "AI"), "t", "l")
LARGE = '[[alert]]\nurgency = "urgent"\nname = "Volume"\nabove = 100\n'


def volume(value: float) -> Prediction:
    effusion = Code("1", "99TEST", "t")
    segment = Segment(1, "effusion", effusion, effusion, np.ones((1, 2, 2), dtype=bool), None, "effusion")
    measured = Measurement(Code("1", "SCT", "Volume"), value, Code("mL", "UCUM", "milliliter"), 1)
    return Prediction(IDENTITY, (segment,), (measured,), (), ("1.2",), (1,), "cpu", Timings())


def decision(positive: bool) -> Prediction:
    value = Code("1", "99TEST", "Present" if positive else "Absent")
    found = Classification(Code("1", "99TEST", "Pneumothorax"), "Pneumothorax", value, 0.973, 0.5, positive)
    return Prediction(IDENTITY, (), (), (found,), ("1.2",), (1,), "cpu", Timings())


def test_a_positive_decision_is_as_urgent_as_its_classification_says() -> None:
    spec = parse_spec(SCORES)
    assert alerts.raised(decision(True), spec) == [
        {"urgency": "critical", "finding": "Pneumothorax", "reason": "Pneumothorax: Present (0.97)"}
    ]
    assert alerts.raised(decision(False), spec) == []
    assert "alerts" not in shown(decision(False), spec)
    assert shown(decision(True), spec)["alerts"][0]["urgency"] == "critical"


@pytest.mark.parametrize(("value", "urgency"), [(100.0, []), (100.1, ["urgent"]), (501.0, ["critical"])])
def test_a_measurement_is_as_urgent_as_the_worst_bound_that_it_passes(value: float, urgency: list[str]) -> None:
    spec = parse_spec(f'{SEGMENTS}{LARGE}[[alert]]\nurgency = "critical"\nname = "Volume"\nsegment = "effusion"\nabove = 500\n')
    found = alerts.raised(volume(value), spec)
    assert [each["urgency"] for each in found] == urgency
    assert all(each["reason"].startswith("effusion Volume: ") and "mL (>" in each["reason"] for each in found)


def test_a_measurement_may_be_too_small() -> None:
    spec = parse_spec(f'{SEGMENTS}[[alert]]\nurgency = "urgent"\nname = "Volume"\nbelow = 10\n')
    assert [each["reason"] for each in alerts.raised(volume(9.5), spec)] == ["effusion Volume: 9.5 mL (< 10)"]


@pytest.mark.parametrize(
    ("alert", "why"),
    [
        ('urgency = "urgent"\nname = "Volume"', "above or below is needed"),
        ('urgency = "dire"\nname = "Volume"\nabove = 1', "alert.0.urgency"),
        ('urgency = "urgent"\nname = "Area"\nabove = 1', "there is none of that name"),
        ('urgency = "urgent"\nname = "Volume"\nsegment = "lung"\nabove = 1', "which is not measured"),
        ('urgency = "urgent"\nname = "Volume"\nabov = 1', "did you mean 'above'"),
    ],
)
def test_an_alert_that_could_never_be_raised_is_refused(alert: str, why: str) -> None:
    with pytest.raises(BundleInvalid, match=why):
        parse_spec(f"{SEGMENTS}[[alert]]\n{alert}\n")


def test_without_alerts_nothing_is_urgent() -> None:
    spec: DicomSpec = parse_spec(SEGMENTS)
    assert alerts.raised(volume(1e6), spec) == []
