"""What a person decides about studies and jobs: the same deed for the command line and for HTTP, with the same traces.

Each takes effect in one transaction, leaves who and why in the audit trail or the job's history, and wakes the worker that has to act.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from dicom_node import nudge
from dicom_node.errors import CommandFailed, UsageError
from storage import ambiguities, chains, commitments, completion, deliveries, feedback, index, recalls, releases, runs, workitem_runs
from storage.errors import NotFound
from storage.flags import stops
from storage.jobs import JobQueue
from storage.rule_facts import HELD

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from dicom_node.config import Config
    from storage.database import Database
    from storage.feedback import FeedbackRecord, Word
    from storage.records import JobRecord, ReleaseRecord


def study_of(connection: Connection, uid: str) -> str:
    """The study of a Study, Series or SOP Instance UID; NotFound where there is none."""
    found = index.find_uid(connection, uid)
    if found is None:
        raise NotFound(f"no study, series or instance {uid}")
    return found[1]


def rerun_study(
    config: Config, database: Database, uid: str, *, rule: str | None = None, release: str | None = None, who: str, why: str, now: float
) -> tuple[str, int]:
    """Route a complete study once more, and run what its rules choose though the same input ran before.

    With ``release`` only its model runs, by that release instead of the deployed one: one that is or was in use, and was not recalled.

    Returns
    -------
    tuple[str, int]
        Study Instance UID and the job that routes it.

    Raises
    ------
    NotFound, UsageError, CommandFailed
        There is no such study, rule or release, or the release may not be used; the study is not complete, or just being routed.
    """
    rules = [each.name for each in config.rule]
    if rule is not None and rule not in rules:
        raise UsageError(f"there is no rule '{rule}'; configured: {', '.join(rules) or 'none'}")
    with database.begin() as connection:
        study = study_of(connection, uid)
        chosen = _usable(connection, release) if release else None
        named = {"model": chosen.name, "release": chosen.digest} if chosen else {}
        again = {"salt": uuid.uuid4().hex, "by": who, "reason": why, "rule": rule, **named}
        job = completion.route_again(connection, JobQueue(database), study, actor=who, why=why, now=now, more={"again": again})
        if job is None:
            raise CommandFailed(f"study {study} is not complete yet, or is being routed at this moment")
    nudge.ring(config.runtime_dir, "route")
    return study, job


def _usable(connection: Connection, reference: str) -> ReleaseRecord:
    """The release that a person means, where its results may go out."""
    found = releases.find(connection, reference)
    past = releases.events(connection, found.pk)
    if not any(event.after == releases.State.DEPLOYED for event in past):
        raise CommandFailed(f"{found.name} {found.version} was never deployed: its results go nowhere; see: dicom-node release deploy")
    recalls.refuse_recalled(connection, found)
    return found


def release_study(config: Config, database: Database, uid: str, *, who: str, why: str, now: float) -> tuple[str, int]:
    """Let a study go on that a rule holds for review; what it returns and raises is that of `rerun_study`."""
    with database.begin() as connection:
        study = index.study_record(connection, study_of(connection, uid))
        if study is None:
            raise NotFound(f"no study {uid}")
        if not (study.flag or "").startswith(HELD):
            reason = f"it is flagged: {study.flag}; see: dicom-node study rerun" if study.flag else "no rule holds it"
            raise CommandFailed(f"study {study.study_uid} is not held for review: {reason}")
        more = {"released": {"by": who, "reason": why}}
        job = completion.route_again(connection, JobQueue(database), study.study_uid, actor=who, why=why, now=now, more=more)
        if job is None:
            raise CommandFailed(
                f"study {study.study_uid} is receiving images, or is being routed at this moment: try again when it is complete"
            )
    nudge.ring(config.runtime_dir, "route")
    return study.study_uid, job


def give_feedback(
    database: Database, uid: str, run_pk: int, finding: str, word: Word, *, seen: int | None, who: str, now: float
) -> FeedbackRecord:
    """Keep what a person says about a finding of a study's run.

    ``seen`` is the revision of the word that the person saw (0: none); None leaves it open.

    Raises
    ------
    NotFound, UsageError, CommandFailed
        There is no such study, run or finding; the word makes no sense of it; somebody else spoke since.
    """
    with database.begin() as connection:
        study = study_of(connection, uid)
        try:
            given = feedback.give(connection, study, run_pk, finding, word, seen=seen, actor=who, now=now)
        except feedback.NotUnderstood as error:
            raise UsageError(str(error)) from None
    if given is None:
        with database.read() as connection:
            raise SpokenMeanwhile(finding, feedback.newest(feedback.history(connection, study)).get((run_pk, finding)))
    return given


class SpokenMeanwhile(CommandFailed):
    """Somebody else judged the same finding after the page was shown; nothing was kept. ``said``: what they said."""

    def __init__(self, finding: str, said: FeedbackRecord | None) -> None:
        what = f"{said.actor} said '{said.verdict}' (revision {said.revision})" if said else "nobody has said anything"
        super().__init__(f"about {finding} {what}, which is not what you saw: nothing was kept; look at it and speak again")
        self.said = said


def choose_series(
    config: Config,
    database: Database,
    uid: str,
    *,
    rule: str,
    model: str,
    series: str,
    input: str = "",  # noqa: A002  the word of dicom.toml
    who: str,
    why: str,
    now: float,
) -> tuple[str, int | None]:
    """Resolve an ambiguous selection: of the series that fit a model equally well by a rule, this one is meant. Its run is queued.

    The choice is kept, audited, and stands over later images and reruns as long as that series fits. What is open, with its candidates:
    `storage.ambiguities.of_study` (of a study) and `open_ones` (of all).

    Parameters
    ----------
    uid
        A Study, Series or SOP Instance UID of the study.
    rule, model
        As `AmbiguityRecord.rule` and `.bundle` name them.
    input
        Of a model of several inputs, which: `AmbiguityRecord.input`; else empty.
    why
        The person's reason; it stands in the timeline and beside the series.

    Returns
    -------
    tuple[str, int | None]
        Study Instance UID, and the job that routes it; None while the study is held, flagged or not complete: the choice is used when it
        goes on.

    Raises
    ------
    NotFound, UsageError, CommandFailed
        There is no such study, rule or open selection, or the series is none of its candidates; the study is just being routed.
    """
    rules = [each.name for each in config.rule]
    if rule not in rules:
        raise UsageError(f"there is no rule '{rule}'; configured: {', '.join(rules) or 'none'}")
    with database.begin() as connection:
        study = index.study_record(connection, study_of(connection, uid))
        if study is None:
            raise NotFound(f"no study {uid}")
        ambiguities.choose(connection, study.study_uid, rule, model, series, of_input=input, by=who, reason=why, now=now)
        if stops(study.flag) or study.state != "COMPLETE":
            return study.study_uid, None
        again = {"salt": "", "by": who, "reason": why, "rule": rule, "model": model}
        job = completion.route_again(connection, JobQueue(database), study.study_uid, actor=who, why=why, now=now, more={"again": again})
        if job is None:
            raise CommandFailed(f"study {study.study_uid} is being routed at this moment: choose again when that has ended")
    nudge.ring(config.runtime_dir, "route")
    return study.study_uid, job


def retry_job(config: Config, database: Database, pk: int, *, who: str) -> None:
    """Give a failed or canceled job a new set of attempts, and what it does a new state.

    Raises
    ------
    NotFound, CommandFailed
        There is none; it is neither failed nor canceled, a live job does the same, its peer is not configured any more, or what it would
        run or send was recalled.
    """
    queue = JobQueue(database)
    found = queue.get(pk)
    if found.kind in ("deliver", "commit"):
        _refuse_unserved(config, found.queue)
    with database.begin() as connection:
        _refuse_recalled(connection, found)
        if not queue.requeue(found.pk, f"by {who}", connection=connection):
            raise CommandFailed(
                f"job {found.pk} is {found.state}: only failed and canceled jobs are retried, and only where no live job does the same"
            )
        if found.kind == "infer":
            workitem_runs.try_again(connection, int(found.payload["run_pk"]), by=who, now=time.time())
            runs.reopen_run(connection, int(found.payload["run_pk"]))
            chains.reopen(connection, int(found.payload["run_pk"]))
        elif found.kind == "prior":
            runs.reopen_run(connection, int(found.payload["run_pk"]))
        elif found.kind == "deliver":
            deliveries.reopen_delivery(connection, int(found.payload["delivery_pk"]))
        elif found.kind == "commit":
            commitments.reopen(connection, int(found.payload["commitment_pk"]))
    nudge.ring(config.runtime_dir, found.queue.replace(":", "-"))


def cancel_job(database: Database, pk: int, *, who: str, why: str) -> None:
    """Cancel a job that waits or runs; NotFound, or CommandFailed for one that has ended."""
    queue = JobQueue(database)
    found = queue.get(pk)
    if not queue.cancel(found.pk, f"{why} ({who})", running=True):
        raise CommandFailed(f"job {found.pk} is {found.state}: there is nothing to cancel")


def _refuse_recalled(connection: Connection, found: JobRecord) -> None:
    if found.kind == "infer":
        run_pk: int | None = int(found.payload["run_pk"])
    elif found.kind == "deliver":
        run_pk = deliveries.get_delivery(connection, int(found.payload["delivery_pk"])).run_pk
    else:
        return
    if run_pk is not None and recalls.is_recalled_run(connection, run_pk):
        raise CommandFailed(f"run {run_pk} was recalled: its model is not run and its result not sent any more")


def _refuse_unserved(config: Config, queue: str) -> None:
    delivering = {deliveries.queue_of(peer.name) for peer in config.destinations}
    committing = {commitments.queue_of(peer.name) for peer in config.peer if peer.may_commit}
    if queue not in delivering | committing:
        kind, _, peer = queue.partition(":")
        wanted = "host and port" if kind == "deliver" else "may_commit"
        raise CommandFailed(f"peer '{peer}' is not configured any more: put its [[peer]] table with {wanted} back, then retry")
