"""The route handler: a completed study meets the rules. Selections, runs, deliveries of originals and their jobs are written in one
transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import structlog
from sqlalchemy import Connection

from dicom_node.clock import Clock
from dicom_node.config import Config
from dicom_node.config_rules import Deidentify, Rule
from dicom_node.releases import shadow
from dicom_node.releases.resolve import Resolution, resolve, resolve_release
from dicom_node.routing.late import Decision, Earlier, decide
from dicom_node.routing.look import look
from dicom_node.routing.plan import Onward, Outcome, Plan, make_plan, peers_of
from dicom_node.routing.selection import Verdict
from dicom_node.work.chaining import Waits, depending, in_order, resolve_waits
from dicom_node.work.handler import NodeHandler
from dicom_node.work.inputs import with_inputs
from dicom_node.work.turns import turns_of
from storage import ambiguities, audit, chains, deliveries, index, priors, quotas, runs
from storage.ambiguities import Candidate
from storage.archive import Archive
from storage.completion import hold_revision
from storage.database import Database
from storage.fair_share import Turns
from storage.jobs import ClaimedJob, JobQueue
from storage.records import RunRecord, StudyRecord
from storage.rule_facts import HELD, HELD_EVENT, IMPORTED, to_forward
from storage.runs import RunSpec, SelectionSpec
from storage.tags import TAGGED_EVENT

log = structlog.get_logger()

ACTOR = "routing"


@dataclass(frozen=True)
class Again:
    """A person's word that a study runs once more though its input is the same. ``rule``: only by that one; ``release``: only
    its model, by the release of that digest instead of the deployed one."""

    salt: str
    by: str
    reason: str
    rule: str | None = None
    model: str | None = None
    release: str | None = None


class RouteHandler(NodeHandler):
    """Carries out ``route`` jobs. ``rules``: the rules of the moment; else those of the configuration."""

    def __init__(
        self,
        config: Config,
        database: Database,
        archive: Archive,
        queue: JobQueue,
        *,
        clock: Clock,
        ring: Callable[[str], None] = lambda name: None,
        rules: Callable[[], tuple[Rule, ...]] | None = None,
    ) -> None:
        super().__init__(config, database, archive, queue, clock=clock, ring=ring)
        self._rules = rules or (lambda: config.rule)

    def __call__(self, job: ClaimedJob) -> None:
        study_uid, revision = str(job.payload["study_uid"]), int(job.payload["revision"])
        with self._database.read() as connection:
            study = index.study_record(connection, study_uid)
        if study is not None and (study.state, study.complete_reason) == ("COMPLETE", IMPORTED):
            revision = study.revision  # an import came since: it routes nothing itself, and must not keep what was received from its rules
        if study is None or study.revision != revision:
            self._finish(job, "the study is gone" if study is None else f"the study has moved on to revision {study.revision}")
            return
        again = Again(**job.payload["again"]) if "again" in job.payload else None
        if again is None and self._only_a_prior(study_uid):
            self._finish(job, "fetched to be compared with: no rule is asked")
            return
        plan = self._plan(study_uid, again)
        if plan is None:
            self._finish(job, "the study is gone")
            return
        with self._database.begin() as connection:
            self._queue.fence(connection, job)
            if not hold_revision(connection, study_uid, revision):
                self._queue.complete(connection, job, "the study has moved on while it was routed")
                return
            held = bool(plan.holds) and again is None and "released" not in job.payload
            made = self._record(connection, study, plan, again, held)
            sent = () if held or again else self._forward(connection, study, plan)
            broken = "; ".join(outcome.sentence for outcome in plan.outcomes if outcome.problem)
            if broken:
                self._queue.fail(job, broken, connection=connection)
            else:
                self._queue.complete(connection, job, _summary(made, sent, held))
        for bell in [*(["infer", priors.QUEUE] if made else []), *(f"deliver-{peer}" for peer in sent)]:
            self._ring(bell)

    def _only_a_prior(self, study_uid: str) -> bool:
        with self._database.read() as connection:
            return priors.only_a_prior(connection, study_uid)

    def _finish(self, job: ClaimedJob, detail: str) -> None:
        with self._database.begin() as connection:
            self._queue.complete(connection, job, detail)

    def _plan(self, study_uid: str, again: Again | None) -> Plan | None:
        rules = [rule for rule in self._rules() if again is None or again.rule in (None, rule.name)]
        models = cache(lambda name: self._resolve(name, again))
        facts = look(self._database, self._archive, [study_uid], rules, models).get(study_uid)
        if facts is None:
            return None
        plan = make_plan(facts, rules, models, peers_of(self._config))
        if again is not None:  # one more run; those that look on have had their turn
            again_too = depending(plan, again.model)
            wanted = (outcome for outcome in plan.outcomes if not outcome.shadow and (again.model is None or outcome.name in again_too))
            plan = replace(plan, outcomes=tuple(wanted))
        return plan

    def _resolve(self, name: str, again: Again | None) -> Resolution:
        """What a rule's word means now, or where a person named a release of it."""
        found = resolve(self._config, self._database, name)
        if again is None or again.release is None or found.name != again.model:
            return found
        return resolve_release(self._config, self._database, again.release)

    # --- writing

    def _record(self, connection: Connection, study: StudyRecord, plan: Plan, again: Again | None, held: bool) -> int:
        now = self._clock()
        self._say(connection, study, plan, held)
        chosen: dict[str, tuple[RunSpec, Rule]] = {}
        for outcome in plan.outcomes:
            if outcome.selection is None:
                self._audit(connection, study, "route.failed" if outcome.problem else "route.not_deployed", outcome.sentence)
                continue
            self._record_selection(connection, study, outcome)
            if not outcome.shadow:
                self._keep_ambiguity(connection, study, outcome, now)
            if outcome.selection.verdict is Verdict.AMBIGUOUS and not outcome.shadow:
                way_out = (
                    f"to choose: dicom-node study choose {study.study_uid} --rule {outcome.rule.name} --model {outcome.name} --series ..."
                )
                self._audit(connection, study, "selection.ambiguous", f"{outcome.sentence}; {way_out}")
            for spec in () if held else self._specs(connection, study, outcome, again):
                known = chosen.get(spec.key)
                if known is not None:  # a second rule for the same work adds its destinations
                    together = tuple(dict.fromkeys((*known[0].deliver_to, *spec.deliver_to)))
                    chosen[spec.key] = replace(known[0], deliver_to=together), known[1]
                else:
                    chosen[spec.key] = spec, outcome.rule
        live = [outcome for outcome in plan.outcomes if not outcome.shadow]
        told = any(outcome.problem for outcome in live) or (live and all(outcome.idle for outcome in live))
        if not (told or held or _does_something_else(plan)) and all(spec.shadow for spec, _ in chosen.values()):
            why = "; ".join(outcome.sentence for outcome in live) or _why_nothing(plan)
            self._audit(connection, study, "route.nothing_applies", why)
        work = in_order([spec for spec, _ in chosen.values()])
        return sum(self._run(connection, study, spec, chosen[spec.key][1], plan, now, again) for spec in work)

    def _say(self, connection: Connection, study: StudyRecord, plan: Plan, held: bool) -> None:
        """What rules say of the study beside their work: in the audit trail, and the hold as its flag."""
        for said, count in Counter(plan.ignored.values()).items():
            self._audit(connection, study, "route.ignored", f"rule {said.rule}, {count} series: {said.text}")
        for said in plan.tags:
            self._audit(connection, study, TAGGED_EVENT, f"{said.text} (rule {said.rule})", tag=said.text)
        if plan.urgency:
            self._audit(connection, study, "route.priority", f"{plan.urgency:+d} by rule {plan.urgent_by}")
        if held:
            why = "; ".join(f"rule {said.rule}: {said.text}" for said in plan.holds)
            runs.flag_study(connection, study.study_uid, f"{HELD} ({why})")
            self._audit(connection, study, HELD_EVENT, f"{why}; to go on: dicom-node rule release {study.study_uid} --reason ...")

    def _forward(self, connection: Connection, study: StudyRecord, plan: Plan) -> tuple[str, ...]:
        """Queue the originals for their peers: one delivery a peer and transfer syntax. What a peer has been given already is left out."""
        groups: dict[tuple[str, str | None, Deidentify | None], list[Onward]] = {}
        for forward in plan.forwards:
            for choice in forward.choices:
                if choice.reason.startswith("refused"):
                    why = f"rule {forward.rule} to {forward.peer}, series {choice.series_uid}: {choice.reason}"
                    self._audit(connection, study, "forward.refused", why)
            if forward.series_uids:
                groups.setdefault((forward.peer, forward.transfer_syntax, forward.deidentify), []).append(forward)
        queued: list[str] = []
        for (peer, syntax, profile), forwards in groups.items():
            series_uids = [uid for forward in forwards for uid in forward.series_uids]
            sop_uids = to_forward(connection, study.study_uid, series_uids, peer, forwards[0].ae_title)
            rules = ", ".join(dict.fromkeys(forward.rule for forward in forwards))
            if not sop_uids:
                self._audit(connection, study, "forward.not_needed", f"rule {rules} to {peer}: it was sent all of it before")
                continue
            pk = deliveries.create_delivery(
                connection, None, study.study_uid, peer, sop_uids, self._queue,
                priority=max(forward.priority for forward in forwards), max_attempts=self._config.delivery.attempts, now=self._clock(),
                more={"deidentify": profile.model_dump(mode="json")} if profile else {"transfer_syntax": syntax} if syntax else None,
            )  # fmt: skip
            what = f"{len(sop_uids)} instances of {len(series_uids)} series{forwards[0].how}"
            self._audit(connection, study, "forward.queued", f"rule {rules} to {peer}: {what}, delivery {pk}")
            queued.append(peer)
        return tuple(dict.fromkeys(queued))

    def _record_selection(self, connection: Connection, study: StudyRecord, outcome: Outcome) -> None:
        assert outcome.selection is not None
        rows = [
            SelectionSpec(outcome.rule.name, outcome.name, choice.series_uid, choice.chosen, choice.reason)
            for choice in outcome.selection.choices
        ]
        runs.record_selection(connection, study.study_uid, study.revision, rows, now=self._clock())

    def _keep_ambiguity(self, connection: Connection, study: StudyRecord, outcome: Outcome, now: float) -> None:
        assert outcome.selection is not None
        tied = {
            name: [Candidate(choice.series_uid, choice.reason) for choice in choices]
            for name, choices in outcome.selection.undecided.items()
        }
        ambiguities.keep(connection, study.study_uid, study.revision, outcome.rule.name, outcome.name, tied, now=now)

    def _specs(self, connection: Connection, study: StudyRecord, outcome: Outcome, again: Again | None) -> list[RunSpec]:
        assert outcome.selection is not None
        assert outcome.chosen is not None
        bundle = outcome.chosen.bundle
        after = (*bundle.dicom.predecessors, *(("", model) for model in outcome.rule.after))
        # What waits gets its key when its input is there; that a person asked for it has to be part of it then as well.
        asked = {"again": again.salt} if again and again.salt and (after or bundle.dicom.prior) else {}
        return [
            RunSpec(
                study_uid=study.study_uid,
                study_revision=study.revision,
                series_uids=list(group.values()),
                input_set=index.input_set(connection, study.study_uid, list(group.values())),
                rule=outcome.rule.name,
                bundle=bundle.name,
                bundle_version=bundle.version,
                release_digest=bundle.digest,
                parameters={**with_inputs(bundle, group), **asked},
                deliver_to=() if outcome.shadow else outcome.rule.deliver,
                salt=again.salt if again else "",
                asks_prior=bundle.dicom.prior is not None,
                after=after,
                release_pk=outcome.chosen.release_pk,
                outside=outcome.rule.perform == "outside" and not outcome.shadow,
                shadow=outcome.shadow,
            )
            for group in outcome.selection.groups
        ]

    def _run(
        self, connection: Connection, study: StudyRecord, spec: RunSpec, rule: Rule, plan: Plan, now: float, again: Again | None
    ) -> int:
        chained = resolve_waits(connection, spec)
        if isinstance(chained, str):
            self._audit(connection, study, "run.not_needed", f"model {spec.bundle}: {chained}")
            return 0
        spec, waits = chained
        if spec.asks_prior:
            spec = replace(spec, run_key=priors.provisional_key(spec))
        if spec.shadow:
            return self._look_on(connection, study, spec, rule, now, waits)
        decision = self._asked_for(connection, spec, rule, again) if again else self._decide(connection, spec, rule)
        if decision.flag:
            runs.flag_study(connection, study.study_uid, decision.reason)
        if not decision.run:
            event = "late.flagged" if decision.flag else "run.not_needed"
            self._audit(connection, study, event, f"model {spec.bundle}: {decision.reason}")
            return 0
        among = [earlier.pk for earlier in self._earlier(connection, spec, rule)]
        runs.cancel_older(connection, self._queue, study.study_uid, study.revision, spec.bundle, actor=ACTOR, now=now, among=among)
        spec = replace(spec, predecessor_pk=decision.predecessor)
        made = self._create(connection, spec, waits, plan.priority_of(rule), now, by_hand=again is not None)
        if again and made is not None:
            self._make_way(connection, spec, rule, made, now)
            self._audit(connection, study, "run.again", f"run {made} of model {spec.bundle}: {decision.reason}")
        return int(made is not None)

    def _create(self, connection: Connection, spec: RunSpec, waits: Waits, priority: int, now: float, *, by_hand: bool) -> int | None:
        """Record a run, and queue it or let it wait for others. What a person asks for waits for no quota."""
        attempts, queue = self._config.executor.attempts, None if waits or spec.asks_prior else self._queue
        turns = turns_of(self._config)
        turns = Turns(turns.share) if by_hand else turns
        made = runs.create_run(connection, spec, queue=queue, priority=priority, max_attempts=attempts, turns=turns, now=now)
        if made is not None and waits:
            chains.wait(connection, made, waits, priority=priority, max_attempts=attempts)
        if made is not None and spec.asks_prior:
            priors.wait(connection, self._queue, made, spec.study_uid, priority=priority, max_attempts=attempts)
        return made

    def _make_way(self, connection: Connection, spec: RunSpec, rule: Rule, made: int, now: float) -> None:
        """Cancel the runs that wait for a quota where a person has asked for one: they would do the same once more."""
        beside = self._of_rule(runs.earlier_runs(connection, spec.study_uid, spec.bundle), spec, rule)
        for pk in quotas.waiting_for_turn(connection, [each.pk for each in beside if each.pk != made], now=now):
            why, job_pk = f"run {made} was asked for instead", runs.get_run(connection, pk).job_pk
            if job_pk is not None and self._queue.cancel(job_pk, why, connection=connection):
                runs.cancel_run(connection, pk, why, now=now)

    def _look_on(self, connection: Connection, study: StudyRecord, spec: RunSpec, rule: Rule, now: float, waits: Waits) -> int:
        """Plan a run that only looks on. It makes way as others do, and comes after all of them."""
        found = runs.earlier_runs(connection, spec.study_uid, spec.bundle, spec.study_revision, shadow=True)
        earlier = [record for record in self._of_rule(found, spec, rule) if record.release_digest == spec.release_digest]
        if earlier and (rule.late or self._config.study.late) != "rerun":
            return 0
        among = [record.pk for record in earlier]
        runs.cancel_older(connection, self._queue, study.study_uid, study.revision, spec.bundle, actor=ACTOR, now=now, among=among)
        made = self._create(connection, spec, waits, shadow.PRIORITY + rule.priority, now, by_hand=False)
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

    def _audit(self, connection: Connection, study: StudyRecord, event: str, reason: str, **more: str) -> None:
        log.info(event, reason=reason)
        detail = {"revision": study.revision, "reason": reason, **more}
        audit.record(connection, event, actor=ACTOR, study_uid=study.study_uid, detail=detail, at=self._clock())


def _does_something_else(plan: Plan) -> bool:
    acts = any(each.matched and not each.rule.run and not each.rule.ignore for each in plan.spoken)
    return acts or any(forward.series_uids for forward in plan.forwards) or _all_ignored(plan)


def _all_ignored(plan: Plan) -> bool:
    every = {uid for each in plan.spoken for uid in (*each.series_uids, *each.outside)}
    return bool(every) and every <= set(plan.ignored)


def _why_nothing(plan: Plan) -> str:
    return "; ".join(f"rule {each.rule.name}: {each.why_not}" for each in plan.spoken if each.why_not) or "no rule is configured"


def _summary(made: int, sent: tuple[str, ...], held: bool) -> str:
    if held:
        return HELD
    parts = [f"{made} runs" if made else "no run", *([f"originals to {', '.join(sent)}"] if sent else [])]
    return "; ".join(parts)
