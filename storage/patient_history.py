"""Measurements over a patient's studies: the same number of the same model, one of each study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select

from storage import feedback as words
from storage.records import RunRecord, from_row
from storage.schema import feedback, run, study
from storage.visibility import NO_LIMITS, Limits, visible

MOST_STUDIES: Final = 24


@dataclass(frozen=True)
class Point:
    """A number of one study. ``corrected``: a radiologist said that it is this instead; ``rejected``: that it is wrong."""

    study_uid: str
    study_date: str
    at: float
    run_pk: int
    version: str
    value: float
    unit: str
    corrected: float | None = None
    rejected: bool = False

    @property
    def right(self) -> float:
        return self.value if self.corrected is None else self.corrected


def measured(
    connection: Connection, study_uid: str, bundles: Iterable[str], *, limits: Limits = NO_LIMITS
) -> dict[tuple[str, str], list[Point]]:
    """The numbers of a study's patient by (model, finding), oldest study first: of each study the newest result that stands.

    ``limits`` leaves out studies that whoever asks may not see.
    """
    patient = select(study.c.patient_pk).where(study.c.study_uid == study_uid).scalar_subquery()
    of_patient = select(study.c.study_uid).where(study.c.patient_pk == patient)
    condition = visible(limits)
    if condition is not None:
        of_patient = of_patient.where(condition)
    newest_studies = of_patient.order_by(study.c.study_date.desc(), study.c.pk.desc()).limit(MOST_STUDIES)
    uids = {*connection.scalars(newest_studies), study_uid}
    standing = (run.c.state == "COMPLETED", ~run.c.shadow, run.c.recalled_at.is_(None), run.c.bundle.in_(set(bundles)))
    query = select(run, study.c.study_date, study.c.first_received_at).join(study, study.c.study_uid == run.c.study_uid)
    newest: dict[tuple[str, str, str], Point] = {}
    said = words.newest(
        [from_row(words.FeedbackRecord, row) for row in connection.execute(select(feedback).where(feedback.c.study_uid.in_(uids)))]
    )
    for row in connection.execute(query.where(run.c.study_uid.in_(uids), *standing).order_by(run.c.pk)):
        record = from_row(RunRecord, row)
        for found in words.findings_of(record):
            if found.kind == "measurement" and isinstance(found.value, int | float):
                word = said.get((record.pk, found.key))
                corrected = word.corrected if word is not None and isinstance(word.corrected, int | float) else None
                rejected = word is not None and word.verdict == words.REJECT
                about = (record.study_uid, row.study_date, row.first_received_at, record.pk, record.bundle_version)
                newest[record.bundle, found.key, record.study_uid] = Point(*about, float(found.value), found.unit, corrected, rejected)
    history: dict[tuple[str, str], list[Point]] = {}
    for (bundle, key, _), point in newest.items():
        history.setdefault((bundle, key), []).append(point)
    return {key: sorted(points, key=lambda each: (each.study_date, each.at)) for key, points in history.items()}
