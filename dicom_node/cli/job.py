"""``job list | show | retry | cancel | quotas``."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, who, with_json

STATES = ("SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELED", "FAILED")


def add(commands: Any) -> None:
    jobs = group(commands, "job", "queued work: list, show, retry, cancel, quotas")
    listing = command(jobs, "list", "list jobs, newest first", example="dicom-node job list --state FAILED")
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--kind", choices=["route", "infer", "deliver", "commit", "prior"])
    listing.add_argument("--study", metavar="UID")
    listing.add_argument("--limit", type=int, default=50)
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(jobs, "show", "show a job and its history")
    show.add_argument("job", type=int)
    with_json(show)
    show.set_defaults(run=_show)
    retry = command(jobs, "retry", "give a failed or canceled job a new set of attempts")
    retry.add_argument("job", type=int)
    retry.set_defaults(run=_retry)
    cancel = command(jobs, "cancel", "cancel a job that waits or runs; a running one is ended and its result refused")
    cancel.add_argument("job", type=int)
    cancel.add_argument("--reason", default="canceled by a person")
    cancel.set_defaults(run=_cancel)
    quotas = command(jobs, "quotas", "how far each source has used its quotas, and how many of its runs wait for their turn")
    with_json(quotas)
    quotas.set_defaults(run=_quotas)


def _list(arguments: argparse.Namespace) -> None:
    from storage.jobs import JobQueue, JobState

    with index_of(configuration(arguments)) as database:
        state = JobState(arguments.state) if arguments.state else None
        found = JobQueue(database).list(state=state, kind=arguments.kind, study_uid=arguments.study, limit=arguments.limit)
    if arguments.json:
        output.data(found)
        return
    rows = [
        (
            each.pk,
            each.kind,
            each.queue,
            each.payload.get("form", ""),
            each.state,
            f"{each.attempts}/{each.max_attempts}",
            output.moment(each.updated_at),
            each.study_uid,
            each.error,
        )
        for each in found
    ]
    output.table(("job", "kind", "queue", "form", "state", "attempts", "updated", "study", "error"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from dicom_node.cli.story import memory_of, waits_until
    from storage import runs
    from storage.jobs import JobQueue

    with index_of(configuration(arguments)) as database:
        queue = JobQueue(database)
        found, events = queue.get(arguments.job), queue.events(arguments.job)
        with database.read() as connection:
            run = runs.get_run(connection, int(found.payload["run_pk"])) if found.kind == "infer" else None
    if arguments.json:
        output.data({"job": found, "events": events, **({"memory": run.memory} if run else {})})
        return
    form = f", {found.payload['form']}" if found.payload.get("form") else ""
    output.line(f"Job {found.pk} {found.kind} ({found.queue}{form}): {found.state}, attempt {found.attempts} of {found.max_attempts}")
    if found.due_by is not None:
        output.line(f"  due by {output.moment(found.due_by)}, else it is ended")
    if turn := waits_until(found):
        output.line(f"  {turn}")
    if found.error:
        output.line(f"  {found.error}")
    for text in memory_of(run) if run else ():
        output.line(f"  {text}")
    for event in events:
        output.line(f"  {output.moment(event.at)}  {event.state}  {event.detail or ''}  {event.worker or ''}".rstrip())


def _retry(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import retry_job

    config = configuration(arguments)
    with index_of(config) as database:
        retry_job(config, database, arguments.job, who=who())
    output.line(f"job {arguments.job} is scheduled again")


def _cancel(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import cancel_job

    with index_of(configuration(arguments)) as database:
        cancel_job(database, arguments.job, who=who(), why=arguments.reason)
    output.line(f"job {arguments.job} is canceled")


def _quotas(arguments: argparse.Namespace) -> None:
    import time

    from dicom_node.work.turns import quotas_of
    from storage import quotas

    config = configuration(arguments)
    with index_of(config) as database, database.read() as connection:
        found = quotas.standings(connection, quotas_of(config.quota), now=time.time())
    if arguments.json:
        output.data(found)
        return
    if not config.quota:
        output.line("no [[quota]] is configured: runs of all sources go as soon as a device is free")
        return
    rows = [
        (
            each.source,
            "; ".join(f"{used} of {limit}" for used, limit in zip(each.used, each.quotas, strict=True)),
            each.waiting,
            output.moment(each.next_at) if each.next_at else "",
        )
        for each in found
    ]
    output.table(("source", "used", "waiting", "next turn"), rows)
