"""The radiologist's word about what a model found: accepted, modified or rejected, each word kept, the newest counts.

A finding is named by what it is (`Finding.key`), the same in every run of a model: so that words can be compared between releases.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from sqlalchemy import Connection, func, select

from storage import audit, runs
from storage.errors import NotFound
from storage.records import RunRecord, from_row
from storage.schema import feedback, instance, run, study
from storage.statements import insert_new
from storage.worklist_upkeep import note

ACCEPT, MODIFY, REJECT = "accept", "modify", "reject"
VERDICTS: Final = (ACCEPT, MODIFY, REJECT)
REASONS: Final[Mapping[str, str]] = {
    "false_positive": "it is not there",
    "false_negative": "something was missed",
    "wrong_extent": "its outline is wrong",
    "wrong_place": "it is somewhere else",
    "wrong_value": "the number is wrong",
    "wrong_class": "it is something else",
    "poor_image": "the images do not allow it",
    "not_applicable": "the model is not meant for this study",
    "other": "another reason",
}
RESULT: Final = "result"  # the result as a whole
LONGEST_REASON: Final = 2000
LONGEST_CLASS: Final = 200
SEGMENTATIONS: Final = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


class NotUnderstood(ValueError):
    """What was said makes no sense of this finding; the text says why."""


@dataclass(frozen=True)
class Finding:
    """One thing that a run says. ``value`` is a number with its ``unit``, the meaning of a class, or the voxels of a segment."""

    key: str
    kind: str  # segment | measurement | classification | result
    label: str
    name: str = ""
    value: float | str | None = None
    unit: str = ""
    probability: float | None = None
    positive: bool | None = None


@dataclass(frozen=True)
class Word:
    """What somebody wants to say about a finding. ``corrected``: a number or a class; ``corrected_uid``: the SEG that holds it."""

    verdict: str
    corrected: float | str | None = None
    corrected_uid: str | None = None
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class FeedbackRecord:
    pk: int
    study_uid: str
    run_pk: int
    release_digest: str
    finding: str
    revision: int
    verdict: str
    found: dict[str, Any]
    corrected: Any
    corrected_uid: str | None
    code: str
    reason: str
    actor: str
    at: float


@dataclass(frozen=True)
class Agreement:
    """How people judged the results of a release: the newest word about each finding counts."""

    accept: int
    modify: int
    reject: int
    runs: int  # of which somebody said something
    completed: int
    reasons: dict[str, int]

    @property
    def words(self) -> int:
        return self.accept + self.modify + self.reject

    @property
    def rate(self) -> float | None:
        """Accepted of all that was judged; None where nothing was."""
        return self.accept / self.words if self.words else None


def findings_of(record: RunRecord) -> tuple[Finding, ...]:
    """What a run says, each with a name of its own; the result as a whole comes first."""
    told: Mapping[str, Any] = record.findings if isinstance(record.findings, Mapping) else {}
    met: Counter[str] = Counter()
    found = [Finding(RESULT, "result", record.bundle)]
    for each in (*_segments(told), *_measurements(told), *_classifications(told)):
        met[each.key] += 1
        key = each.key if met[each.key] == 1 else f"{each.key}#{met[each.key]}"
        found.append(Finding(**{**vars(each), "key": key}))
    return tuple(found)


def _segments(told: Mapping[str, Any]) -> Iterator[Finding]:
    for each in told.get("segments", ()):
        yield Finding(f"segment:{each['label']}", "segment", each["label"], value=each.get("voxels"))


def _measurements(told: Mapping[str, Any]) -> Iterator[Finding]:
    for each in told.get("measurements", ()):
        of = each.get("of") or ""
        yield Finding(f"measurement:{of}:{each['name']}", "measurement", of, each["name"], each["value"], each.get("unit") or "")


def _classifications(told: Mapping[str, Any]) -> Iterator[Finding]:
    for each in told.get("classifications", ()):
        more = {"probability": each.get("probability"), "positive": each.get("positive")}
        yield Finding(f"classification:{each['label']}", "classification", each["label"], value=each["value"], **more)


def give(
    connection: Connection, study_uid: str, run_pk: int, finding: str, word: Word, *, seen: int | None, actor: str, now: float | None = None
) -> FeedbackRecord | None:
    """Keep a word about a finding of a run, in the caller's transaction.

    Parameters
    ----------
    seen
        The revision that whoever speaks saw: 0 where nobody had spoken; None: whatever there is.

    Returns
    -------
    FeedbackRecord or None
        None where somebody else spoke since: nothing was kept, and `newest` tells what they said.

    Raises
    ------
    NotFound, NotUnderstood
    """
    record = runs.get_run(connection, run_pk)
    if record.study_uid != study_uid:
        raise NotFound(f"study {study_uid} has no run {run_pk}")
    if record.state != "COMPLETED" or record.shadow:
        raise NotUnderstood(f"run {run_pk} has no result that people see")
    about = next((each for each in findings_of(record) if each.key == finding), None)
    if about is None:
        raise NotFound(f"run {run_pk} has no finding '{finding}'")
    checked = _checked(connection, study_uid, about, word)
    last = connection.scalar(select(func.max(feedback.c.revision)).where(_about(run_pk, finding))) or 0
    if seen is not None and seen != last:
        return None
    at = time.time() if now is None else now
    values = {**vars(checked), "study_uid": study_uid, "run_pk": run_pk, "release_digest": record.release_digest, "finding": finding}
    values |= {"revision": last + 1, "found": _found(about), "actor": actor, "at": at}
    row = connection.execute(insert_new(connection, feedback).values(**values).returning(feedback)).one_or_none()
    if row is None:
        return None  # two spoke in the same moment
    detail = {"run": run_pk, "finding": finding, "verdict": word.verdict, "code": word.code, "revision": last + 1}
    audit.record(connection, "feedback.given", actor=actor, study_uid=study_uid, sop_uid=word.corrected_uid, detail=detail, at=at)
    note(connection, study_uid, "feedback")  # so that whoever looks at the study sees it
    return from_row(FeedbackRecord, row)


def _about(run_pk: int, finding: str) -> Any:
    return (feedback.c.run_pk == run_pk) & (feedback.c.finding == finding)


def _found(about: Finding) -> dict[str, Any]:
    return {name: value for name, value in vars(about).items() if name != "key" and value not in (None, "")}


def _checked(connection: Connection, study_uid: str, about: Finding, word: Word) -> Word:
    if word.verdict not in VERDICTS:
        raise NotUnderstood(f"a verdict is one of {', '.join(VERDICTS)}")
    if word.code and word.code not in REASONS:
        raise NotUnderstood(f"a reason is one of {', '.join(REASONS)}")
    if word.verdict != ACCEPT and not word.code:
        raise NotUnderstood(f"whoever modifies or rejects says why: one of {', '.join(REASONS)}")
    if word.code == "other" and not word.reason.strip():
        raise NotUnderstood("another reason has to be written down")
    if len(word.reason) > LONGEST_REASON or "\0" in word.reason:
        raise NotUnderstood(f"a reason has at most {LONGEST_REASON} characters")
    corrects = word.corrected not in (None, "") or word.corrected_uid
    if corrects and word.verdict != MODIFY:
        raise NotUnderstood("only who modifies a finding corrects it")
    if word.verdict == MODIFY and not corrects:
        raise NotUnderstood("whoever modifies says what is right: a value, a class, or the SEG in which it was corrected")
    if word.corrected_uid:
        _refuse_no_segmentation(connection, study_uid, word.corrected_uid)
    corrected = None if word.corrected in (None, "") else _corrected(about, word.corrected)
    return Word(word.verdict, corrected, word.corrected_uid or None, word.code, " ".join(word.reason.split()))


def _corrected(about: Finding, value: float | str | None) -> float | str:
    if about.kind == "measurement":
        try:
            number = float(value or 0)
        except ValueError:
            raise NotUnderstood("the corrected value is no number") from None
        if not isfinite(number):
            raise NotUnderstood("the corrected value is no number")
        return number
    if about.kind != "classification":
        raise NotUnderstood("of a segment or a whole result what is right stands in a SEG")
    text = str(value).strip()
    if not text or len(text) > LONGEST_CLASS or not text.isprintable():
        raise NotUnderstood(f"a class has 1 to {LONGEST_CLASS} printable characters")
    return text


def _refuse_no_segmentation(connection: Connection, study_uid: str, sop_uid: str) -> None:
    of_study = select(instance.c.origin, instance.c.sop_class_uid).join(study, study.c.pk == instance.c.study_pk)
    row = connection.execute(of_study.where(study.c.study_uid == study_uid, instance.c.sop_uid == sop_uid)).one_or_none()
    if row is None or row.sop_class_uid not in SEGMENTATIONS:
        raise NotUnderstood(f"the study has no segmentation {sop_uid}")
    if row.origin == "emitted":
        raise NotUnderstood("that segmentation is this node's own; what is corrected has to be sent back first")


def segmentations_received(connection: Connection, study_uid: str) -> list[str]:
    """The SEG objects of a study that came from outside, newest first: in which a person may have corrected something."""
    query = select(instance.c.sop_uid).join(study, study.c.pk == instance.c.study_pk)
    query = query.where(study.c.study_uid == study_uid, instance.c.sop_class_uid.in_(SEGMENTATIONS), instance.c.origin != "emitted")
    return list(connection.scalars(query.order_by(instance.c.received_at.desc())))


def history(connection: Connection, study_uid: str) -> tuple[FeedbackRecord, ...]:
    """Every word about a study's results, in the order in which they were spoken."""
    rows = connection.execute(select(feedback).where(feedback.c.study_uid == study_uid).order_by(feedback.c.pk))
    return tuple(from_row(FeedbackRecord, row) for row in rows)


def newest(words: Sequence[FeedbackRecord]) -> dict[tuple[int, str], FeedbackRecord]:
    """What counts: (run, finding) > the last word about it."""
    return {(each.run_pk, each.finding): each for each in sorted(words, key=lambda each: each.revision)}


def agreement(connection: Connection, release_digest: str) -> Agreement:
    """How people judged what a release found."""
    later = feedback.alias()
    superseded = select(later.c.pk).where(
        later.c.run_pk == feedback.c.run_pk, later.c.finding == feedback.c.finding, later.c.revision > feedback.c.revision
    )
    counts = select(feedback.c.verdict, feedback.c.code, feedback.c.run_pk, func.count().label("words"))
    counts = counts.where(feedback.c.release_digest == release_digest, ~superseded.exists())
    rows = connection.execute(counts.group_by(feedback.c.verdict, feedback.c.code, feedback.c.run_pk)).all()
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        verdicts[row.verdict] += row.words
        reasons[row.code] += row.words
    ran = select(func.count()).where(run.c.release_digest == release_digest, run.c.state == "COMPLETED", ~run.c.shadow)
    return Agreement(
        accept=verdicts[ACCEPT],
        modify=verdicts[MODIFY],
        reject=verdicts[REJECT],
        runs=len({row.run_pk for row in rows}),
        completed=connection.scalar(ran) or 0,
        reasons={code: count for code, count in sorted(reasons.items()) if code},
    )


def judged(connection: Connection, study_uid: str) -> list[tuple[RunRecord, FeedbackRecord]]:
    """The newest words about a study's results, each with the run that it is about; oldest runs first."""
    said = newest(history(connection, study_uid))
    if not said:
        return []
    rows = connection.execute(select(run).where(run.c.pk.in_({pk for pk, _ in said})))
    known = {row.pk: from_row(RunRecord, row) for row in rows}
    return [(known[pk], word) for (pk, _), word in sorted(said.items())]
