"""The radiologist's word as labels: over what a model said, and without anybody's identity."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from pydicom import Dataset

from dicom_node.datasets.spoken import (
    HEADING,
    WRITTEN,
    Spoken,
    about,
    agreement_labels,
    corrected_labels,
    rejected_runs,
    row,
    table,
    told,
    verdict_of,
)
from storage.feedback import FeedbackRecord
from storage.records import RunRecord

RUN = RunRecord(
    7, "key", "1.2", 1, ["1.2.1"], [["1.2.1.1", "d"]], "heads", "brain", "1.0", "digest", {}, [], "COMPLETED", None, "cpu", 0.0, 0.0, 1.0,
    {}, {}, None, True, None,
)  # fmt: skip
VOLUME = {"kind": "measurement", "label": "Brain", "name": "Volume", "value": 1400.5, "unit": "mL"}
MOTION = {"kind": "classification", "label": "Motion", "value": "Present", "positive": True, "probability": 0.7}
REPORTED = {"Brain 1: Volume": 1400.5, "Motion": 1.0, "Grade=Severe": 1.0}


def word(found: dict[str, Any], verdict: str, corrected: Any = None, **more: Any) -> Spoken:
    finding = f"{found['kind']}:{found['label']}"
    values = {"corrected_uid": None, "code": "wrong_value", "reason": "Mrs Meier moved", "actor": "ada", "at": 5.0, **more}
    return Spoken(RUN, FeedbackRecord(1, "1.2", 7, "digest", finding, 1, verdict, found, corrected, **values))


def header() -> Dataset:
    made = Dataset()
    made.PatientName, made.PatientID = "Meier^Anna", "MRN-77"
    return made


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (word(VOLUME, "accept"), REPORTED),
        (word(VOLUME, "modify", 1388.0), {**REPORTED, "Brain 1: Volume": 1388.0}),
        (word(VOLUME, "reject"), {"Motion": 1.0, "Grade=Severe": 1.0}),
        (word(MOTION, "reject"), {**REPORTED, "Motion": 0.0}),
        (word(MOTION, "modify", "Absent"), {**REPORTED, "Motion": 0.0}),
        (
            word({**MOTION, "label": "Grade", "value": "Severe"}, "modify", "Mild"),
            {"Brain 1: Volume": 1400.5, "Motion": 1.0, "Grade=Mild": 1.0},
        ),
        (word({**MOTION, "label": "Grade"}, "modify", "as Anna has"), {"Brain 1: Volume": 1400.5, "Motion": 1.0}),
    ],
)
def test_the_word_stands_over_the_report(said: Spoken, expected: dict[str, float]) -> None:
    assert corrected_labels(REPORTED, [said], header()) == expected


def test_whether_a_model_was_right_is_a_label_too() -> None:
    words = [word(VOLUME, "accept"), word(MOTION, "modify", "Absent")]
    assert agreement_labels(words) == {"measurement:Brain": 1.0, "classification:Motion": 0.0}
    assert [verdict_of(words), verdict_of(words[:1]), verdict_of([])] == ["modify", "accept", ""]
    assert about(words, ["1.2.1.1"]) == words
    assert about(words, ["1.2.1.2"]) == []


def test_a_mask_that_was_rejected_or_corrected_is_none_to_learn_from() -> None:
    segment = {"kind": "segment", "label": "Brain"}
    assert rejected_runs([word(segment, "reject")]) == rejected_runs([word(segment, "modify", corrected_uid="1.2.9")]) == {"key"}
    assert rejected_runs([word(segment, "accept"), word(VOLUME, "reject")]) == frozenset()


@pytest.mark.parametrize(
    ("corrected", "leaves"),
    [(None, ""), (1388.25, "1388.25"), ("Severe", "Severe"), ("see ANNA", WRITTEN), ("mrn-77", WRITTEN), ("seen 2024", WRITTEN)],
)
def test_no_identity_leaves_in_a_correction(corrected: Any, leaves: str) -> None:
    assert told(corrected, header()) == leaves


def test_the_table_says_what_was_found_and_what_was_said_but_not_by_whom() -> None:
    text = table([row("new-uid", "subject", word(MOTION, "reject", code="false_positive"), header())])
    (line,) = csv.DictReader(io.StringIO(text))
    assert tuple(line) == HEADING
    assert (line["item"], line["model"], line["release_digest"], line["verdict"]) == ("new-uid", "brain", "digest", "reject")
    assert (line["found"], line["probability"], line["reason"]) == ("Present", "0.7", "false_positive")
    assert "Meier" not in text
    assert "ada" not in text
