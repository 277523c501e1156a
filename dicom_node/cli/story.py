"""The story of a study in readable lines: received, complete, chosen, run, delivered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dicom_node.cli.output import moment, size
from models.memory import told
from storage.standing import successors

if TYPE_CHECKING:
    from storage.feedback import FeedbackRecord
    from storage.records import DeliveryInstanceRecord, JobRecord, RunRecord, SeriesRecord
    from storage.timeline import DeliveryStory, RunStory, Timeline

# Told in their own sections; the audit section is for the rest.
TOLD = frozenset({"study.complete", "delivery.ended", "feedback.given"})


def tell(story: Timeline) -> Iterator[str]:
    """The lines of a story."""
    study = story.study
    yield f"Study {study.study_uid}"
    yield f"  {study.study_date or 'no date'}  {study.study_description or 'no description'}  {'/'.join(study.modalities)}"
    yield f"  {study.series} series, {study.instances} instances, {study.state}, revision {study.revision}"
    if study.flag:
        yield f"  FLAGGED: {study.flag}"
    for heading, lines in (
        ("Received", _received(story)),
        ("Complete", _complete(story)),
        ("Series", _series(story)),
        ("To be chosen", _ambiguous(story)),
        ("Runs", _runs(story)),
        ("Feedback", _feedback(story.feedback)),
        ("Deliveries without a run", _unattached(story)),
        ("Jobs", _jobs(story)),
        ("Quarantine", _quarantine(story)),
        ("Also noted", _audit(story)),
    ):
        yield from _section(heading, list(lines))


def _section(heading: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield heading
        yield from (f"  {line}" for line in lines)


def _received(story: Timeline) -> Iterator[str]:
    for each in story.receptions:
        sender = f"from {each.calling_ae} at {each.address or 'unknown address'} to {each.called_ae}" if each.calling_ae else each.origin
        what = f"{each.instances} instances, {size(each.bytes)}"
        yield f"{moment(each.first_at)}  {what}, {sender}, within {each.last_at - each.first_at:.1f} s"
        if each.association_id:
            end = f"{each.ended} {moment(each.closed_at)}" if each.closed_at else "still open"
            yield f"    association {each.association_id}: {end}"


def _complete(story: Timeline) -> Iterator[str]:
    for each in story.completions:
        yield f"{moment(each.at)}  revision {each.revision}, {each.instances} instances: {each.reason}"
        if each.held:
            yield f"    {each.held}"
    if story.study.state != "COMPLETE":
        yield "not complete yet"


def _series(story: Timeline) -> Iterator[str]:
    for each in story.series:
        yield _title(each.series)
        yield f"    {each.series.series_uid}"
        for choice in each.selections:
            verdict = "CHOSEN" if choice.chosen else "not chosen"
            yield f"    revision {choice.study_revision}, {choice.bundle} (rule {choice.rule}): {verdict}: {choice.reason}"


def _ambiguous(story: Timeline) -> Iterator[str]:
    """What waits for a person's choice, and what was chosen."""
    for each in story.ambiguities:
        named = f"{each.bundle} (rule {each.rule}){f', input {each.input}' if each.input else ''}"
        if each.state == "CHOSEN":
            yield f"{moment(each.chosen_at)}  {named}: series {each.series_uid}, by {each.chosen_by}: {each.reason}"
        elif each.open:
            yield f"{moment(each.opened_at)}  {named}: nothing runs until one of {len(each.candidates)} series is chosen"
            for candidate in each.candidates:
                yield f"    {candidate.series_uid}  {candidate.reason}"
            meant = f"--rule {each.rule} --model {each.bundle}{f' --input {each.input}' if each.input else ''} --series UID"
            yield f"    dicom-node study choose {each.study_uid} {meant} --reason ..."


def _title(series: SeriesRecord) -> str:
    made = ", made by this node" if series.emitted and series.emitted == series.instances else ""
    description = series.series_description or "no description"
    return f"{series.series_number or '-'}  {series.modality}  {description}, {series.instances} instances{made}"


def _runs(story: Timeline) -> Iterator[str]:
    replaced = successors(each.run for each in story.runs)
    due = {each.job.pk: each.job.due_by for each in story.jobs}
    for each in story.runs:
        yield from _run(each, replaced.get(each.run.pk), due.get(each.run.job_pk or 0))


def _standing(run: RunRecord, successor: int | None) -> Iterator[str]:
    """Why a result must not be used, or need not be any more."""
    if run.recalled_at is not None:
        yield f"RECALLED {moment(run.recalled_at)}: {run.recall_reason}"
    if successor is not None:
        yield f"superseded by run {successor}, which is the result to use"


def _run(story: RunStory, successor: int | None, due_by: float | None) -> Iterator[str]:
    run = story.run
    looks_on = " in the shadow (not shown as a result, not sent)" if run.shadow else ""
    yield f"Run {run.pk}: {run.bundle} {run.bundle_version}{looks_on}, {run.state}{f': {run.reason}' if run.reason else ''}"
    yield from (f"    {line}" for line in _standing(run, successor))
    yield f"    release digest {run.release_digest}"
    yield f"    rule {run.rule}, {len(run.input_set)} instances of revision {run.study_revision}, run key {run.run_key[:16]}"
    yield from (f"    {line}" for line in _course(run, due_by))
    for delivery in story.deliveries:
        yield from (f"    {line}" for line in _delivery(delivery))
    if run.state == "COMPLETED" and not story.deliveries and not run.shadow:
        yield f"    not delivered: {'superseded while it ran' if not run.delivered else 'its rule names no destination'}"


def _course(run: RunRecord, due_by: float | None = None) -> Iterator[str]:
    if run.state == "SCHEDULED" and run.device == "outside":
        yield "waits for somebody outside to claim it; see: dicom-node workitem list --state SCHEDULED"
    if run.started_at is not None:
        took = f", took {run.finished_at - run.started_at:.1f} s" if run.finished_at is not None else ""
        due = f", due by {moment(due_by)}" if due_by is not None and run.finished_at is None else ""
        yield f"started {moment(run.started_at)} on {run.device}{took}{due}"
    if run.timings:
        yield "seconds: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in run.timings.items())
    yield from memory_of(run)
    if run.predecessor_pk is not None:
        yield f"replaces run {run.predecessor_pk}"
    if run.shadow:
        yield from _beside(run)
        return
    yield from _findings(run.findings or {})


def memory_of(run: RunRecord) -> Iterator[str]:
    """What was known of the memory that a run takes, where it began because of it, and what it took."""
    memory = run.memory
    if not memory:
        return
    began = f"began {memory['began']}" if memory["began"] else "waits for room" if run.state == "SCHEDULED" else "not begun"
    yield f"memory: {began}, {memory['voxels']} voxels on {memory['device']}: {memory['why']}"
    if memory["did_not_fit"]:
        yield f"memory: did not suffice {', '.join(memory['did_not_fit'])}"
    if memory["taken"]:
        yield f"memory: took {told(memory['taken'])} {memory['applied']}"


def _beside(run: RunRecord) -> Iterator[str]:
    """How far a run in the shadow agrees with the one whose result went out."""
    agreement = run.agreement or {}
    if run.compared_with is None:
        yield "compared with no run: none went out"
    for label, each in agreement.get("segments", {}).items():
        yield f"beside run {run.compared_with}: {label}, Dice {each['dice']:.4f}"
    for label, each in agreement.get("classifications", {}).items():
        yield f"beside run {run.compared_with}: {label}, {'the same decision' if each['same'] else 'ANOTHER DECISION'}"


def _findings(findings: dict[str, Any]) -> Iterator[str]:
    for each in findings.get("measurements", []):
        yield f"found: {each['of'] or ''} {each['name']} {each['value']:.1f} {each['unit']}".replace("  ", " ")
    for each in findings.get("classifications", []):
        probability = f" (probability {each['probability']:.2f})" if each.get("probability") is not None else ""
        yield f"found: {each['label']}: {each['value']}{probability}"


def _feedback(words: Sequence[FeedbackRecord]) -> Iterator[str]:
    for each in words:
        corrected = f", right is {each.corrected}" if each.corrected is not None else ""
        corrected += f", corrected in {each.corrected_uid}" if each.corrected_uid else ""
        why = f": {each.code}" if each.code else ""
        said = f" ({each.reason})" if each.reason else ""
        yield f"{moment(each.at)}  {each.verdict} {each.finding} of run {each.run_pk} by {each.actor}{corrected}{why}{said}"


def _delivery(story: DeliveryStory) -> Iterator[str]:
    delivery = story.delivery
    when = f" {moment(delivery.finished_at)}" if delivery.finished_at else ""
    form = f", {delivery.form}" if delivery.form else ""
    yield f"to {delivery.peer}{form}: {delivery.state}{when}{f': {delivery.detail}' if delivery.detail else ''}"
    for each in story.instances:
        status = "" if each.status is None else f" {each.status:04X}"
        comment = f" ({each.comment})" if each.comment else ""
        answered = f", {moment(each.answered_at)}" if each.answered_at else ""
        yield f"  {each.sop_uid}: {each.state}{status}{comment}, attempt {each.attempts}{answered}{_committed(each)}"
    for request in story.commitments:
        told = f", reported {moment(request.reported_at)}" if request.reported_at else f", to be asked again {moment(request.due_at)}"
        detail = f": {request.detail}" if request.detail else ""
        asked = f"asked for commitment {moment(request.requested_at)}"
        yield f"  {asked} (transaction {request.transaction_uid}): {request.state}{detail}{told if request.state != 'EXPIRED' else ''}"


def _committed(instance: DeliveryInstanceRecord) -> str:
    again = f", sent again for it: {instance.commit_attempts}" if instance.commit_attempts else ""
    why = f" ({instance.failure_reason:04X})" if instance.failure_reason is not None else ""
    if instance.commitment == "COMMITTED" and instance.committed_at is not None:
        return f", committed {moment(instance.committed_at)}{again}"
    if instance.commitment == "FAILED" or (instance.commitment is None and why):
        return f", not committed{why}{again}"
    return f", commitment requested{again}" if instance.commitment == "REQUESTED" else ""


def _unattached(story: Timeline) -> Iterator[str]:
    for each in story.deliveries:
        yield from _delivery(each)


def _jobs(story: Timeline) -> Iterator[str]:
    for each in story.jobs:
        job = each.job
        yield f"Job {job.pk} {job.kind} ({job.queue}): {job.state}, attempt {job.attempts} of {job.max_attempts}"
        if turn := waits_until(job):
            yield f"    {turn}"
        for event in each.events:
            by = f"  by {event.worker}" if event.worker else ""
            yield f"    {moment(event.at)}  {event.state}{f'  {event.detail}' if event.detail else ''}{by}"


def waits_until(job: JobRecord) -> str:
    """Before when a waiting job is not taken; empty where it may be taken now."""
    waits = job.state == "SCHEDULED" and job.not_before > time.time()
    return f"not before {moment(job.not_before)}" if waits else ""


def _quarantine(story: Timeline) -> Iterator[str]:
    for each in story.quarantine:
        yield f"{each.pk}: {each.kind}, {each.state}: {each.reason} ({each.sop_uid})"


def _audit(story: Timeline) -> Iterator[str]:
    for each in story.audit:
        if each.event not in TOLD:
            about = f" {each.sop_uid}" if each.sop_uid else ""
            reason = each.detail.get("reason") or ", ".join(f"{key}={value}" for key, value in each.detail.items())
            yield f"{moment(each.at)}  {each.event}{about} by {each.actor}: {reason}"
