"""The route handler: a completed study meets the rules. Selections, runs and their jobs are written in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import Connection

from dicom_node.config import Rule
from dicom_node.releases import shadow
from dicom_node.releases.resolve import Chosen, resolve
from dicom_node.routing.late import Decision, Earlier, decide
from dicom_node.routing.selection import Selection, Verdict, select_series
from dicom_node.work.attributes import series_attributes
from dicom_node.work.handler import NodeHandler
from storage import audit, index, runs
from storage.completion import hold_revision
from storage.jobs import ClaimedJob
from storage.records import RunRecord, StudyRecord
from storage.runs import RunSpec, SelectionSpec

log = structlog.get_logger()

ACTOR = "routing"
IMPORTED = "imported"


@dataclass(frozen=True)
class Outcome:
    """What one rule and one model came to. ``problem``: what has to be repaired; ``idle``: why nothing is run on purpose; ``shadow``: the
    release only looks on."""

    rule: Rule
    chosen: Chosen | None
    name: str
    selection: Selection | None
    problem: str = ""
    idle: str = ""
    shadow: bool = False

    @property
    def sentence(self) -> str:
        why = self.problem or self.idle or (self.selection.summary if self.selection else "")
        return f"rule {self.rule.name}, model {self.name}: {why}"


@dataclass(frozen=True)
class Again:
    """A person's word that a study runs once more though its input is the same. ``rule``: only by that one."""

    salt: str
    by: str
    reason: str
    rule: str | None = None


class RouteHandler(NodeHandler):
    """Carries out ``route`` jobs."""

    def __call__(self, job: ClaimedJob) -> None:
        study_uid, revision = str(job.payload["study_uid"]), int(job.payload["revision"])
        with self._database.read() as connection:
            study = index.study_record(connection, study_uid)
            attributes = index.rule_attributes(connection, study_uid)
        if study is not None and (study.state, study.complete_reason) == ("COMPLETE", IMPORTED):
            revision = study.revision  # an import came since: it routes nothing itself, and must not keep what was received from its rules
        if study is None or study.revision != revision:
            self._finish(job, "the study is gone" if study is None else f"the study has moved on to revision {study.revision}")
            return
        attributes = series_attributes(self._archive, study_uid, attributes)
        again = Again(**job.payload["again"]) if "again" in job.payload else None
        rules = [rule for rule in self._config.rule if again is None or again.rule in (None, rule.name)]
        outcomes = [each for rule in rules for name in rule.run for each in self._outcomes(rule, name, attributes, again)]
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            if not hold_revision(connection, study_uid, revision):
                self._queue.complete(connection, job, "the study has moved on while it was routed")
                return
            made = self._record(connection, study, outcomes, again)
            broken = "; ".join(outcome.sentence for outcome in outcomes if outcome.problem)
            if broken:
                self._queue.fail(job, broken, connection=connection)
            else:
                self._queue.complete(connection, job, f"{made} runs" if made else "no run")
        if made:
            self._ring("infer")

    def _finish(self, job: ClaimedJob, detail: str) -> None:
        with self._database.begin() as connection:
            self._queue.complete(connection, job, detail)

    def _outcomes(self, rule: Rule, name: str, attributes: Mapping[str, Mapping[str, Any]], again: Again | None) -> list[Outcome]:
        """What the release in use comes to, and those that look on (not where a person asks for one more run)."""
        meant = resolve(self._config, self._database, name)
        outcomes = [
            Outcome(rule, None, meant.name, None, meant.problem, meant.idle)
            if meant.live is None
            else Outcome(rule, meant.live, meant.name, self._select(rule, meant.live, attributes))
        ]
        for chosen in meant.shadows if again is None else ():
            label = f"{meant.name} {chosen.bundle.version} ({chosen.bundle.digest[:12]}, in the shadow)"
            outcomes.append(Outcome(rule, chosen, label, self._select(rule, chosen, attributes), shadow=True))
        return outcomes

    def _select(self, rule: Rule, chosen: Chosen, attributes: Mapping[str, Mapping[str, Any]]) -> Selection:
        return select_series(chosen.bundle.dicom.series, rule.match, attributes, every=rule.series == "all")

    # --- writing

    def _record(self, connection: Connection, study: StudyRecord, outcomes: list[Outcome], again: Again | None) -> int:
        now = self._clock()
        chosen: dict[str, tuple[RunSpec, Rule]] = {}
        for outcome in outcomes:
            if outcome.selection is None:
                self._audit(connection, study, "route.failed" if outcome.problem else "route.not_deployed", outcome.sentence)
                continue
            self._record_selection(connection, study, outcome)
            if outcome.selection.verdict is Verdict.AMBIGUOUS and not outcome.shadow:
                self._audit(connection, study, "selection.ambiguous", outcome.sentence)
            for spec in self._specs(connection, study, outcome, again):
                known = chosen.get(spec.key)
                if known is not None:  # a second rule for the same work adds its destinations
                    together = tuple(dict.fromkeys((*known[0].deliver_to, *spec.deliver_to)))
                    chosen[spec.key] = replace(known[0], deliver_to=together), known[1]
                else:
                    chosen[spec.key] = spec, outcome.rule
        live = [outcome for outcome in outcomes if not outcome.shadow]
        told = any(outcome.problem for outcome in live) or (live and all(outcome.idle for outcome in live))
        if not told and all(spec.shadow for spec, _ in chosen.values()):
            why = "; ".join(outcome.sentence for outcome in live) or "no rule is configured"
            self._audit(connection, study, "route.nothing_applies", why)
        return sum(self._run(connection, study, spec, rule, now, again) for spec, rule in chosen.values())

    def _record_selection(self, connection: Connection, study: StudyRecord, outcome: Outcome) -> None:
        assert outcome.selection is not None
        rows = [
            SelectionSpec(outcome.rule.name, outcome.name, choice.series_uid, choice.chosen, choice.reason)
            for choice in outcome.selection.choices
        ]
        runs.record_selection(connection, study.study_uid, study.revision, rows, now=self._clock())

    def _specs(self, connection: Connection, study: StudyRecord, outcome: Outcome, again: Again | None) -> list[RunSpec]:
        assert outcome.selection is not None
        assert outcome.chosen is not None
        bundle, chosen = outcome.chosen.bundle, outcome.selection.chosen
        return [
            RunSpec(
                study_uid=study.study_uid,
                study_revision=study.revision,
                series_uids=[uid],
                input_set=index.input_set(connection, study.study_uid, [uid]),
                rule=outcome.rule.name,
                bundle=bundle.name,
                bundle_version=bundle.version,
                release_digest=bundle.digest,
                parameters=dict(bundle.dicom.model.parameters),
                deliver_to=() if outcome.shadow else outcome.rule.deliver,
                salt=again.salt if again else "",
                release_pk=outcome.chosen.release_pk,
                shadow=outcome.shadow,
            )
            for uid in chosen
        ]

    def _run(self, connection: Connection, study: StudyRecord, spec: RunSpec, rule: Rule, now: float, again: Again | None) -> int:
        if spec.shadow:
            return self._look_on(connection, study, spec, rule, now)
        decision = self._asked_for(connection, spec, rule, again) if again else self._decide(connection, spec, rule)
        if decision.flag:
            runs.flag_study(connection, study.study_uid, decision.reason)
        if not decision.run:
            event = "late.flagged" if decision.flag else "run.not_needed"
            self._audit(connection, study, event, f"model {spec.bundle}: {decision.reason}")
            return 0
        among = [earlier.pk for earlier in self._earlier(connection, spec, rule)]
        runs.cancel_older(connection, self._queue, study.study_uid, study.revision, spec.bundle, actor=ACTOR, now=now, among=among)
        made = runs.create_run(
            connection,
            replace(spec, predecessor_pk=decision.predecessor),
            queue=self._queue,
            priority=rule.priority,
            max_attempts=self._config.executor.attempts,
            now=now,
        )
        if again and made is not None:
            self._audit(connection, study, "run.again", f"run {made} of model {spec.bundle}: {decision.reason}")
        return int(made is not None)

    def _look_on(self, connection: Connection, study: StudyRecord, spec: RunSpec, rule: Rule, now: float) -> int:
        """Plan a run that only looks on. It makes way as others do, and comes after all of them."""
        found = runs.earlier_runs(connection, spec.study_uid, spec.bundle, spec.study_revision, shadow=True)
        earlier = [record for record in self._of_rule(found, spec, rule) if record.release_digest == spec.release_digest]
        if earlier and (rule.late or self._config.study.late) != "rerun":
            return 0
        among = [record.pk for record in earlier]
        runs.cancel_older(connection, self._queue, study.study_uid, study.revision, spec.bundle, actor=ACTOR, now=now, among=among)
        attempts, priority = self._config.executor.attempts, shadow.PRIORITY + rule.priority
        made = runs.create_run(connection, spec, queue=self._queue, priority=priority, max_attempts=attempts, now=now)
        return int(made is not None)

    def _asked_for(self, connection: Connection, spec: RunSpec, rule: Rule, again: Again) -> Decision:
        """A run on a person's word, whatever ran before; it replaces the newest one that was completed."""
        before = self._of_rule(runs.earlier_runs(connection, spec.study_uid, spec.bundle), spec, rule)
        done = next((record for record in before if record.state == "COMPLETED"), None)
        replaces = f", replaces run {done.pk}" if done else ""
        return Decision(True, done.pk if done else None, False, f"asked for by {again.by}{replaces}: {again.reason}")

    def _decide(self, connection: Connection, spec: RunSpec, rule: Rule) -> Decision:
        known = runs.find_run(connection, spec.key)
        if known is not None and runs.results_deleted(connection, spec.key):
            way_out = f"to make new ones: dicom-node study rerun {spec.study_uid} --rule {rule.name} --reason ..."
            why = f"the same input ran before as run {known.pk} ({known.state}), and its results were deleted; {way_out}"
            return Decision(False, None, False, why)
        same = Earlier(known.pk, known.run_key, known.state) if known is not None else None
        records = self._earlier(connection, spec, rule)
        finished = [record for record in records if record.state != "CANCELED"]
        latest = next(iter([record for record in finished if record.state == "COMPLETED"] or finished), None)
        earlier = Earlier(latest.pk, latest.run_key, latest.state) if latest is not None else None
        return decide(rule.late or self._config.study.late, spec.key, same, earlier)

    def _earlier(self, connection: Connection, spec: RunSpec, rule: Rule) -> list[RunRecord]:
        return self._of_rule(runs.earlier_runs(connection, spec.study_uid, spec.bundle, spec.study_revision), spec, rule)

    def _of_rule(self, found: list[RunRecord], spec: RunSpec, rule: Rule) -> list[RunRecord]:
        of_rule = [record for record in found if record.rule == spec.rule]
        if rule.series == "all":
            return [record for record in of_rule if list(record.series_uids) == list(spec.series_uids)]
        return of_rule

    def _audit(self, connection: Connection, study: StudyRecord, event: str, reason: str) -> None:
        log.info(event, reason=reason)
        detail = {"revision": study.revision, "reason": reason}
        audit.record(connection, event, actor=ACTOR, study_uid=study.study_uid, detail=detail, at=self._clock())
