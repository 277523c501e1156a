"""``quarantine list | show | accept | discard``."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, quiet_node, who, with_json, with_reason


def add(commands: Any) -> None:
    quarantine = group(commands, "quarantine", "instances that were kept apart: conflicting content under a known UID, or malformed")
    listing = command(quarantine, "list", "list what waits for a decision")
    listing.add_argument("--all", action="store_true", help="also what was decided")
    listing.add_argument("--study", metavar="UID")
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(quarantine, "show", "show one entry; --diff compares it with the instance that is stored")
    show.add_argument("entry", type=int)
    show.add_argument(
        "--diff", action="store_true", help="attribute by attribute (shows patient data: it goes to the terminal, never to a log)"
    )
    with_json(show)
    show.set_defaults(run=_show)
    for name, text, run in (
        ("accept", "take an entry in: a new revision of the instance, whose old bytes are kept", _accept),
        ("discard", "decide against an entry and remove its bytes", _discard),
    ):
        parser = command(quarantine, name, text, example=f'dicom-node quarantine {name} 3 --reason "sent by mistake"')
        parser.add_argument("entry", type=int)
        with_reason(parser)
        parser.set_defaults(run=run)


def _list(arguments: argparse.Namespace) -> None:
    from storage import quarantine

    with quiet_node(configuration(arguments)) as node:
        state = None if arguments.all else quarantine.HELD
        found = quarantine.list_held(node.archive, state=state, study_uid=arguments.study)
    if arguments.json:
        output.data(found)
        return
    rows = [(each.pk, each.kind, each.state, output.moment(each.received_at), each.calling_ae, each.sop_uid, each.reason) for each in found]
    output.table(("entry", "kind", "state", "received", "from", "instance", "reason"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from storage import quarantine

    with quiet_node(configuration(arguments)) as node:
        entry = quarantine.get(node.archive, arguments.entry)
        differences = quarantine.difference(node.archive, arguments.entry) if arguments.diff else []
    if arguments.json:
        output.data({"entry": entry, "differences": differences} if arguments.diff else {"entry": entry})
        return
    output.line(f"{entry.pk}: {entry.kind}, {entry.state}, {entry.reason}")
    output.line(f"  instance {entry.sop_uid}, study {entry.study_uid}")
    output.line(f"  from {entry.calling_ae}, {output.moment(entry.received_at)}, digest {entry.digest}")
    if entry.resolved_at is not None:
        output.line(f"  {entry.state.lower()} by {entry.resolved_by}, {output.moment(entry.resolved_at)}: {entry.resolution}")
    if arguments.diff:
        rows = [(each.path, each.keyword, each.existing, each.offered) for each in differences]
        output.table(("tag", "attribute", "stored", "offered"), rows)
        if not differences:
            output.line("no attribute differs")


def _accept(arguments: argparse.Namespace) -> None:
    from storage import quarantine

    with quiet_node(configuration(arguments)) as node:
        quarantine.accept(node.archive, arguments.entry, who=who(), reason=arguments.reason)
    output.line(f"entry {arguments.entry} is accepted: a new revision of the instance, and the study completes again")


def _discard(arguments: argparse.Namespace) -> None:
    from storage import quarantine

    with quiet_node(configuration(arguments)) as node:
        quarantine.discard(node.archive, arguments.entry, who=who(), reason=arguments.reason)
    output.line(f"entry {arguments.entry} is discarded")
