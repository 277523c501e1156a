"""``retention plan | run | hold | release``."""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, quiet_node, who, with_json, with_reason

if TYPE_CHECKING:
    from dicom_node.node import Node
    from storage.retention import Decision


def add(commands: Any) -> None:
    retention = group(commands, "retention", "what may be deleted: plan, run, hold, release")
    plan = command(
        retention,
        "plan",
        "tell for each study whether it goes, and why not",
        description="What the rules in [retention] would delete now, and why the rest stays. Nothing is deleted.",
        example="dicom-node retention plan --going",
    )
    plan.add_argument("--going", action="store_true", help="only the studies that go")
    plan.add_argument("--low", action="store_true", help="as if the disk were low")
    plan.add_argument("--limit", type=int, default=200, metavar="N", help="studies shown (default 200); the totals count all")
    with_json(plan)
    plan.set_defaults(run=_plan)
    run = command(retention, "run", "delete now what the rules let go", example="dicom-node retention run --dry-run")
    run.add_argument("--dry-run", action="store_true", help="only show what would go, and why the rest stays")
    run.add_argument("--most", type=int, default=1000, metavar="N", help="studies deleted at most (default 1000)")
    with_json(run)
    run.set_defaults(run=_run, going=False, low=False, limit=200)
    hold = command(retention, "hold", "keep a study, whatever the rules say")
    hold.add_argument("uid", metavar="UID", help="Study Instance UID")
    with_reason(hold)
    hold.set_defaults(run=_hold)
    release = command(retention, "release", "let a held study go by its rule again")
    release.add_argument("uid", metavar="UID", help="Study Instance UID")
    with_reason(release)
    release.set_defaults(run=_release)


def _plan(arguments: argparse.Namespace) -> None:
    with quiet_node(configuration(arguments)) as node:
        _show(arguments, node)


def _show(arguments: argparse.Namespace, node: Node) -> None:
    from dicom_node.node import retention_rules
    from storage.retention import plan
    from storage.retention_rules import DiskState

    state = node.disk_state()
    low = arguments.low or state is not DiskState.OK
    going = size = studies = 0
    why: Counter[str] = Counter()
    shown: list[Decision] = []
    for each in plan(node.database, retention_rules(node.config), now=node.clock(), low=low):
        studies += 1
        going, size = going + each.goes, size + each.size * each.goes
        if not each.goes:
            why[each.why] += 1
        if len(shown) < arguments.limit and (each.goes or not arguments.going):
            shown.append(each)
    if arguments.json:
        output.data({"disk": state.value, "studies": studies, "going": going, "bytes": size, "decisions": shown})
        return
    rows = [
        (each.study_uid, "goes" if each.goes else "stays", each.rule or "-", each.instances, output.size(each.size), each.why)
        for each in shown
    ]
    output.table(("study", "", "rule", "instances", "size", "why"), rows)
    output.note(f"{going} of {studies} studies go, {output.size(size)}; the disk is {state.value}")
    for reason, number in islice(why.most_common(), 10):
        output.note(f"{number} stay: {reason}")


def _run(arguments: argparse.Namespace) -> None:
    from dicom_node.node import build_purger

    with quiet_node(configuration(arguments)) as node:
        if arguments.dry_run:
            _show(arguments, node)
            return
        report = build_purger(node).batch(most=arguments.most, examine=1 << 62)
    if arguments.json:
        output.data(report)
        return
    for each in report.gone:
        output.line(f"deleted\t{each.study_uid}\t{each.why}")
    output.line(f"deleted {len(report.gone)} studies, {output.size(report.size)}, of {report.examined} looked at")


def _hold(arguments: argparse.Namespace) -> None:
    from storage import promises

    with quiet_node(configuration(arguments)) as node:
        promises.hold(node.archive, arguments.uid, who=who(), reason=arguments.reason)
    output.line(f"{arguments.uid} is kept until it is released")


def _release(arguments: argparse.Namespace) -> None:
    from storage import promises

    with quiet_node(configuration(arguments)) as node:
        promises.release(node.archive, arguments.uid, who=who(), reason=arguments.reason)
    output.line(f"{arguments.uid} goes by its rule again")
