"""A study as its page tells it: results with what was said about them, numbers over time, and everything that happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dicom_node.web.pages.words import N_
from storage import feedback
from storage.feedback import FeedbackRecord, Finding
from storage.patient_history import Point
from storage.records import RunRecord, SelectionRecord
from storage.standing import successors
from storage.timeline import DeliveryStory, RunStory, Timeline

VERDICTS: Final = {feedback.ACCEPT: N_("accepted"), feedback.MODIFY: N_("corrected"), feedback.REJECT: N_("rejected")}
VERDICT_TONES: Final = {feedback.ACCEPT: "good", feedback.MODIFY: "urgent", feedback.REJECT: "bad"}
REASONS: Final = {
    "false_positive": N_("It is not there"),
    "false_negative": N_("Something was missed"),
    "wrong_extent": N_("Its outline is wrong"),
    "wrong_place": N_("It is somewhere else"),
    "wrong_value": N_("The number is wrong"),
    "wrong_class": N_("It is something else"),
    "poor_image": N_("The images do not allow it"),
    "not_applicable": N_("The model is not meant for this study"),
    "other": N_("Another reason"),
}
MOST_EVENTS: Final = 200
TOLD: Final = frozenset({"study.complete", "delivery.ended", "feedback.given", "study.refused"})
UNITS: Final = {"cm2": "cm²", "mm2": "mm²", "cm3": "cm³", "mm3": "mm³", "[hnsf'U]": "HU", "1": "", "{ratio}": ""}  # UCUM as people write it
NO_PICTURE: Final = frozenset({"SR", "KO", "PR", "DOC", "REG", "RTPLAN", "RTSTRUCT", "AU", "ECG", "HD", "PLAN", "FID", "RWV"})
WIDE, HIGH, EDGE = 300, 84, 10  # of a chart


@dataclass(frozen=True)
class Chart:
    """Numbers over time as places in an SVG of ``WIDE`` by ``HIGH``; the last one is this study's own where ``own`` says so."""

    points: tuple[tuple[float, float, Point, bool], ...]
    line: str
    low: float
    high: float


@dataclass(frozen=True)
class Shown:
    """One finding with what was said about it, the newest word last."""

    finding: Finding
    words: tuple[FeedbackRecord, ...]
    history: tuple[Point, ...] = ()
    chart: Chart | None = None

    @property
    def word(self) -> FeedbackRecord | None:
        return self.words[-1] if self.words else None

    @property
    def revision(self) -> int:
        return self.word.revision if self.word else 0


@dataclass(frozen=True)
class Result:
    """A run that people see: its findings, why it must not be used or need not be any more, and where it was sent."""

    run: RunRecord
    whole: Shown
    findings: tuple[Shown, ...]
    deliveries: tuple[DeliveryStory, ...]
    superseded_by: int | None
    planes: int = 0
    labels: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def stands(self) -> bool:
        return self.superseded_by is None and self.run.recalled_at is None and self.run.state == "COMPLETED"


@dataclass(frozen=True)
class Event:
    """Something that happened. ``what`` is a message id; ``detail`` is the node's own English."""

    at: float
    what: str
    detail: str = ""
    who: str = ""
    tone: str = "quiet"
    more: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)


def results_of(story: Timeline, history: Mapping[tuple[str, str], Sequence[Point]], study_uid: str) -> list[Result]:
    """The runs of a study as people see them, those that stand first, the newest first of these."""
    replaced = successors(each.run for each in story.runs)
    found = [_result(each, story.feedback, replaced.get(each.run.pk), history, study_uid) for each in story.runs if not each.run.shadow]
    return sorted(found, key=lambda each: (not each.stands, -each.run.pk))


def _result(
    story: RunStory,
    words: Sequence[FeedbackRecord],
    successor: int | None,
    history: Mapping[tuple[str, str], Sequence[Point]],
    study_uid: str,
) -> Result:
    run = story.run
    shown = []
    for each in feedback.findings_of(run):
        said = tuple(word for word in words if (word.run_pk, word.finding) == (run.pk, each.key))
        points = tuple(history.get((run.bundle, each.key), ()))
        shown.append(Shown(each, said, points, chart_of(points, study_uid)))
    findings = sorted(shown[1:], key=lambda each: _KINDS.index(each.finding.kind))
    return Result(run, shown[0], tuple(findings), story.deliveries, successor)


_KINDS: Final = ("classification", "measurement", "segment")


def selections_of(story: Timeline) -> dict[str, list[SelectionRecord]]:
    """Series Instance UID > for each rule and model whether it was chosen the last time that they looked, and why (not)."""
    newest = {(each.series.series_uid, said.rule, said.bundle): said for each in story.series for said in each.selections}
    found: dict[str, list[SelectionRecord]] = {}
    for (uid, _, _), said in newest.items():
        found.setdefault(uid, []).append(said)
    return {uid: sorted(said, key=lambda each: not each.chosen) for uid, said in found.items()}


def chart_of(points: Sequence[Point], study_uid: str) -> Chart | None:
    """A line through the numbers of two studies and more, evenly spaced: a date may be missing, and many are of one day."""
    if len(points) < 2:
        return None
    values = [point.right for point in points]
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    step = (WIDE - 2 * EDGE) / (len(points) - 1)
    scale = (HIGH - 2 * EDGE) / span
    placed = tuple(
        (round(EDGE + index * step, 1), round(HIGH - EDGE - scale * (point.right - low), 1), point, point.study_uid == study_uid)
        for index, point in enumerate(points)
    )
    return Chart(placed, " ".join(f"{x:g},{y:g}" for x, y, _, _ in placed), low, high)


def urgency_of(results: Sequence[Result]) -> list[dict[str, str]]:
    """What makes the study urgent: alerts of results that stand, but for what somebody rejected; the most urgent first."""
    alerts: list[dict[str, str]] = []
    for each in results:
        if each.stands and isinstance(each.run.findings, dict) and not _rejected(each.whole):
            gone = {name for shown in each.findings if _rejected(shown) for name in _names(shown.finding)}
            alerts += [alert for alert in each.run.findings.get("alerts", ()) if alert.get("finding") not in gone]
    return sorted(alerts, key=lambda alert: alert.get("urgency") != "critical")


def _rejected(shown: Shown) -> bool:
    return shown.word is not None and shown.word.verdict == feedback.REJECT


def _names(finding: Finding) -> tuple[str, ...]:
    """As an alert names it: a classification by its label, a measurement by segment and name."""
    return (f"{finding.label} {finding.name}".strip(),) if finding.kind == "measurement" else (finding.label,)


# --- what happened


def events_of(story: Timeline) -> list[Event]:
    """Everything that happened to a study, the newest first."""
    found = [*_arrived(story), *_ran(story), *_sent(story), *_spoken(story), *_noted(story)]
    return sorted(found, key=lambda each: -each.at)[:MOST_EVENTS]


def _arrived(story: Timeline) -> Iterator[Event]:
    for each in story.receptions:
        values = {"sender": each.calling_ae or each.origin}
        yield Event(
            each.first_at,
            N_("Images came from %(sender)s"),
            f"{each.instances} {'instance' if each.instances == 1 else 'instances'}",
            values=values,
        )
    for done in story.completions:
        held = (done.held,) if done.held else ()
        yield Event(done.at, N_("The study was complete"), done.reason, tone="good", more=held)
    for kept in story.quarantine:
        yield Event(kept.received_at, N_("An image was put in quarantine"), kept.reason, tone="bad")


def _ran(story: Timeline) -> Iterator[Event]:
    for each in story.runs:
        run = each.run
        values = {"model": f"{run.bundle} {run.bundle_version}"}
        digest = f"release {run.release_digest[:16]}, rule {run.rule}, {len(run.input_set)} instances of revision {run.study_revision}"
        yield Event(run.created_at, N_("%(model)s was chosen by a rule"), digest, values=values)
        if run.finished_at is not None:
            took = f"{run.finished_at - run.started_at:.1f} s on {run.device}" if run.started_at is not None else ""
            why = "; ".join(part for part in (run.reason or "", took) if part)
            what = _ENDINGS.get(run.state, N_("%(model)s ended"))
            tone = {"COMPLETED": "good", "FAILED": "bad"}.get(run.state, "quiet")
            looked = ("looked on: its result was neither kept nor sent",) if run.shadow else ()
            yield Event(run.finished_at, what, why, tone=tone, values=values, more=looked)
        if run.recalled_at is not None:
            yield Event(run.recalled_at, N_("The result of %(model)s was recalled"), run.recall_reason or "", tone="bad", values=values)


_ENDINGS: Final = {
    "COMPLETED": N_("%(model)s had a result"),
    "FAILED": N_("%(model)s failed"),
    "NOT_APPLICABLE": N_("%(model)s does not apply to these images"),
    "CANCELED": N_("%(model)s was canceled"),
}


_SENT: Final = {
    "DELIVERED": (N_("Delivered to %(peer)s"), "good"),
    "NOT_TAKEN": (N_("Not delivered to %(peer)s"), "quiet"),
}


def _sent(story: Timeline) -> Iterator[Event]:
    for each in (*story.deliveries, *(delivery for run in story.runs for delivery in run.deliveries)):
        delivery = each.delivery
        values = {"peer": f"{delivery.peer} ({delivery.form})" if delivery.form else delivery.peer}
        answers = tuple(_answer(instance) for instance in each.instances[:5])
        if delivery.finished_at is not None:
            what, tone = _SENT.get(delivery.state, (N_("Not delivered to %(peer)s"), "bad"))
            yield Event(delivery.finished_at, what, delivery.detail or "", tone=tone, more=answers, values=values)
        else:
            yield Event(delivery.created_at, N_("To be delivered to %(peer)s"), delivery.detail or "", more=answers, values=values)
        for request in each.commitments:
            yield Event(
                request.requested_at, N_("%(peer)s was asked for storage commitment"), request.detail or request.state, values=values
            )


def _answer(instance: Any) -> str:
    status = "" if instance.status is None else f" {instance.status:04X}"
    comment = f" ({instance.comment})" if instance.comment else ""
    commitment = f", {instance.commitment.lower()}" if instance.commitment else ""
    return f"{instance.sop_uid}: {instance.state.lower()}{status}{comment}{commitment}"


def _spoken(story: Timeline) -> Iterator[Event]:
    said = {
        feedback.ACCEPT: N_("A finding was accepted"),
        feedback.MODIFY: N_("A finding was corrected"),
        feedback.REJECT: N_("A finding was rejected"),
    }
    for each in story.feedback:
        yield Event(each.at, said[each.verdict], each.finding, who=each.actor, tone=VERDICT_TONES[each.verdict])


def _noted(story: Timeline) -> Iterator[Event]:
    for each in story.audit:
        if each.event not in TOLD:
            every = ", ".join(f"{key}={value}" for key, value in each.detail.items())
            detail = each.detail.get("reason") or each.detail.get("why") or every
            tone = "urgent" if each.event in _WAITING else "quiet"
            yield Event(each.at, _NOTED.get(each.event, each.event), str(detail)[:300], who=each.actor, tone=tone)


_WAITING: Final = frozenset({"route.held", "selection.ambiguous", "study.held"})
_NOTED: Final = {
    "route.held": N_("A rule held the study for review"),
    "study.held": N_("The study was held back"),
    "route.nothing_applies": N_("No model was run"),
    "route.tagged": N_("A rule gave it a tag"),
    "selection.ambiguous": N_("Several series fit a model equally well"),
    "selection.chosen": N_("A series was chosen"),
    "study.route_again": N_("It was routed again"),
    "study.stored": N_("Images were stored over the web"),
    "run.again": N_("A model was run again"),
    "run.superseded": N_("A run was replaced by a newer one"),
    "retention.held": N_("It is kept from deletion"),
    "retention.released": N_("It may be deleted again"),
}
