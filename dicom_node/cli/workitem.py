"""``workitem list | show | cancel | watchers | unsubscribe``: Unified Procedure Steps, of this node's runs and of others."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node import clock, nudge
from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, who, with_json
from dicom_node.errors import CommandFailed

WHAT = {1: "state", 2: "asked to be canceled", 3: "progress", 4: "status of the service", 5: "assigned"}  # PS3.4 table CC.2.4-1
STATES = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")


def add(commands: Any) -> None:
    items = group(commands, "workitem", "workitems (Unified Procedure Steps): list, show, cancel, who watches them")
    listing = command(items, "list", "list workitems, newest first", example="dicom-node workitem list --state 'IN PROGRESS'")
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--study", metavar="UID")
    listing.add_argument("--limit", type=int, default=50)
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(items, "show", "show a workitem and what happened to it")
    show.add_argument("uid", metavar="UID", help="SOP Instance UID of the workitem")
    with_json(show)
    show.set_defaults(run=_show)
    cancel = command(
        items,
        "cancel",
        "ask for a workitem to be canceled",
        description="One that waits is canceled at once, and its run with it; of one in progress its performer is asked.",
    )
    cancel.add_argument("uid", metavar="UID", help="SOP Instance UID of the workitem")
    cancel.add_argument("--reason", default="canceled by a person")
    cancel.set_defaults(run=_cancel)
    watchers = command(items, "watchers", "who is told what becomes of workitems, and how much waits for them")
    with_json(watchers)
    watchers.set_defaults(run=_watchers)
    unsubscribe = command(
        items,
        "unsubscribe",
        "end every subscription of an AE title",
        description="What waits for it is forgotten. It may subscribe again at any time.",
    )
    unsubscribe.add_argument("aet", metavar="AET")
    unsubscribe.set_defaults(run=_unsubscribe)


def _list(arguments: argparse.Namespace) -> None:
    from storage import workitems

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = workitems.list_items(connection, state=arguments.state, study_uid=arguments.study, limit=arguments.limit)
    if arguments.json:
        output.data([_plain(each) for each in found])
        return
    rows = [
        (each.uid, each.state, each.priority, each.label, each.run_pk, each.performer, output.moment(each.updated_at), each.study_uid)
        for each in found
    ]
    output.table(("workitem", "state", "priority", "label", "run", "performer", "updated", "study"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from storage import workitem_events, workitem_values, workitems

    with index_of(configuration(arguments)) as database, database.read() as connection:
        item = workitems.get(connection, arguments.uid)
        events = workitem_events.history(connection, item.pk)
    if arguments.json:
        output.data({"workitem": _plain(item), "dataset": item.shown, "events": events})
        return
    performed = f"run {item.run_pk} of this node" if item.run_pk else item.performer or "nobody yet"
    output.line(f"Workitem {item.uid}: {item.state}, {item.label or 'no label'}, priority {item.priority}")
    output.line(f"  created {output.moment(item.created_at)} by {item.created_by}; performed by {performed}")
    if item.study_uid:
        output.line(f"  study {item.study_uid}")
    for event in events:
        state = workitem_values.text(event["content"], workitem_values.STATE)
        output.line(f"  {output.moment(event['at'])}  {WHAT[event['type']]}{f': {state}' if state else ''}, by {event['actor']}")


def _cancel(arguments: argparse.Namespace) -> None:
    from storage import workitem_values, workitems
    from storage.jobs import JobQueue

    details = {workitem_values.REASON: workitem_values.element("LT", arguments.reason)}
    config = configuration(arguments)
    with index_of(config) as database, database.begin() as connection:
        workitems.request_cancel(connection, JobQueue(database), arguments.uid, details, by=who(), now=clock.system())
        state = workitems.get(connection, arguments.uid).state
    nudge.ring(config.runtime_dir, "workitems")
    said = "is canceled" if state is workitems.State.CANCELED else f"is {state}: its performer was asked"
    output.line(f"workitem {arguments.uid} {said}")


def _watchers(arguments: argparse.Namespace) -> None:
    from storage import workitem_events

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = workitem_events.watchers(connection)
    if arguments.json:
        output.data([output.plain(each) for each in found])
        return
    named = {workitem_events.GLOBAL: "all", workitem_events.FILTERED: "those that match"}
    rows = []
    for each in found:
        how = "left out" if not each.active else "suspended" if each.suspended_at else "locked" if each.deletion_lock else ""
        since = output.moment(each.oldest_at) if each.oldest_at else ""
        rows.append((each.aet, named.get(each.target, each.target), how, each.channel, output.moment(each.created_at), each.waiting, since))
    output.table(("AE title", "watches", "how", "by", "since", "waiting", "oldest"), rows)


def _unsubscribe(arguments: argparse.Namespace) -> None:
    from storage import audit, workitem_events

    with index_of(configuration(arguments)) as database, database.begin() as connection:
        if arguments.aet not in {each.aet for each in workitem_events.watchers(connection)}:
            raise CommandFailed(f"{arguments.aet} watches no workitem")
        workitem_events.unsubscribe(connection, arguments.aet, workitem_events.GLOBAL, now=clock.system())
        detail = {"workitem": workitem_events.GLOBAL, "aet": arguments.aet}
        audit.record(connection, "workitem.unsubscribed", actor=who(), detail=detail, at=clock.system())
    output.line(f"{arguments.aet} watches no workitem any more")


def _plain(item: Any) -> dict[str, Any]:
    """Without the lock, which is its performer's."""
    shown: dict[str, Any] = output.plain(item)
    return {name: value for name, value in shown.items() if name not in ("transaction_uid", "dataset", "pk")}
