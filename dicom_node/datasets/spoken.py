"""What radiologists said about the node's results, as labels: corrections over what a model said, and whether it was right.

Told are coded reasons, numbers and classes; who spoke, when, and what was written in words stays in the node.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom import Dataset

from storage.database import Database
from storage.feedback import ACCEPT, MODIFY, REJECT, FeedbackRecord, judged
from storage.records import RunRecord

HEADING: Final = (
    *("item", "subject", "model", "version", "release_digest", "finding", "kind", "found", "unit", "probability"),
    *("verdict", "corrected", "reason"),
)
WRITTEN: Final = "written by hand, left out"
IDENTIFYING: Final = ("PatientName", "PatientID", "OtherPatientNames", "AccessionNumber", "PatientBirthName", "ReferringPhysicianName")
POSITIVE: Final = frozenset({"present", "positive", "yes"})
NEGATIVE: Final = frozenset({"absent", "negative", "no"})


@dataclass(frozen=True)
class Spoken:
    """The newest word about one finding of a run, and the images that the run was given."""

    run: RunRecord
    word: FeedbackRecord

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset(uid for uid, _ in self.run.input_set)


def words_of(database: Database, study_uid: str) -> list[Spoken]:
    """What was said about a study's results."""
    with database.read() as connection:
        return [Spoken(run, word) for run, word in judged(connection, study_uid)]


def about(words: Iterable[Spoken], uids: Iterable[str]) -> list[Spoken]:
    """Of these, what is about some images."""
    wanted = frozenset(uids)
    return [each for each in words if each.inputs & wanted]


def rejected_runs(words: Iterable[Spoken]) -> frozenset[str]:
    """The run keys of results whose masks are wrong: rejected as a whole or in a segment, or corrected in another SEG."""
    kinds = ("segment", "result")
    return frozenset(each.run.run_key for each in words if each.word.verdict in (REJECT, MODIFY) and each.word.found.get("kind") in kinds)


def verdict_of(words: Sequence[Spoken]) -> str:
    """The worst that was said: an image with one rejected finding counts as rejected."""
    said = {each.word.verdict for each in words}
    return next((verdict for verdict in (REJECT, MODIFY, ACCEPT) if verdict in said), "")


def agreement_labels(words: Iterable[Spoken]) -> dict[str, float]:
    """Finding > 1 where it was accepted, 0 where it was modified or rejected; where two models found the same, the later run counts."""
    return {each.word.finding: float(each.word.verdict == ACCEPT) for each in words}


def corrected_labels(values: Mapping[str, float], words: Iterable[Spoken], header: Dataset) -> dict[str, float]:
    """Labels of reports with the radiologist's word over them: right ones stay, corrected ones change, rejected ones turn or go."""
    labels = dict(values)
    for each in words:
        if each.word.verdict != ACCEPT:
            _correct(labels, each.word, header)
    return labels


def _correct(labels: dict[str, float], word: FeedbackRecord, header: Dataset) -> None:
    found: Mapping[str, Any] = word.found
    if found.get("kind") == "measurement":
        of, name = str(found.get("label") or ""), str(found.get("name") or "")
        for key in [key for key in labels if key == name or (key.endswith(f": {name}") and of.casefold() in key.casefold())]:
            if isinstance(word.corrected, int | float):
                labels[key] = float(word.corrected)
            else:
                del labels[key]
    elif found.get("kind") == "classification":
        label = str(found.get("label") or "")
        keys = [key for key in labels if key.partition("=")[0].casefold() == label.casefold()]
        before = {key: labels.pop(key) for key in keys}
        right = told(word.corrected, header)
        if right.casefold() in POSITIVE | NEGATIVE:
            labels[keys[0].partition("=")[0] if keys else label] = float(right.casefold() in POSITIVE)
        elif right and right != WRITTEN:
            labels[f"{keys[0].partition('=')[0] if keys else label}={right}"] = 1.0
        elif word.verdict == REJECT:
            labels.update({key: 1.0 - value for key, value in before.items() if value in (0.0, 1.0)})


def told(corrected: Any, header: Dataset) -> str:
    """A correction as it may leave the node: a number, or a class that holds nothing of the patient's identity."""
    if corrected is None:
        return ""
    if isinstance(corrected, int | float):
        return f"{corrected:g}"
    text = str(corrected)
    known = {part for keyword in IDENTIFYING for part in _parts(str(header.get(keyword) or ""))}
    return WRITTEN if re.search(r"\d{4}", text) or known & set(_parts(text)) else text


def _parts(text: str) -> Iterator[str]:
    return (part.casefold() for part in re.split(r"[\W_]+", text) if len(part) > 1)


def table(rows: Iterable[Sequence[Any]]) -> str:
    """The table ``feedback.csv``: a line for each finding of each item that somebody spoke about."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADING)
    writer.writerows(rows)
    return out.getvalue()


def row(item: str, subject: str, each: Spoken, header: Dataset) -> tuple[Any, ...]:
    """A line of the table."""
    run, word, found = each.run, each.word, each.word.found
    said = told(word.corrected, header) or ("mask" if word.corrected_uid else "")
    value, probability = found.get("value", ""), found.get("probability", "")
    model = (run.bundle, run.bundle_version, word.release_digest)
    return (
        item,
        subject,
        *model,
        word.finding,
        found.get("kind", ""),
        value,
        found.get("unit", ""),
        probability,
        word.verdict,
        said,
        word.code,
    )
