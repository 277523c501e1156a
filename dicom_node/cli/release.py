"""``release add | list | show | shadow | deploy | retire | rollback | recall``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, quiet_node, who, with_json, with_reason

if TYPE_CHECKING:
    from dicom_node.releases.lifecycle import Deployed
    from dicom_node.releases.overview import Overview
    from storage.records import ReleaseRecord

Done = TypeVar("Done")
MOST_FIGURES = 8  # of an evaluation
WHICH = "NAME, NAME@VERSION, NAME@DIGEST or DIGEST (six digits are enough)"


def add(commands: Any) -> None:
    group_of = group(commands, "release", "versions of models: add, compare in the shadow, deploy, roll back")
    adding = command(
        group_of,
        "add",
        "take a bundle's files in as a release, with its evaluation",
        description="Copy a bundle into the data folder under its release digest, where later changes of the folder do not reach it, and "
        "record it as a candidate. Adding the same release again adds another evaluation.",
        example="dicom-node release add ./cxr_lungs --evaluation report.json",
    )
    adding.add_argument("folder", type=Path, metavar="BUNDLE_DIR", help="the bundle's folder, or the name of one that ships")
    adding.add_argument("--evaluation", type=Path, metavar="REPORT", help="report.json as dicom-node model evaluate writes it")
    adding.add_argument("--reason", default="added", help="why; kept with the release")
    with_json(adding)
    adding.set_defaults(run=_add)
    listing = command(group_of, "list", "list releases and their states")
    listing.add_argument("name", nargs="?", metavar="NAME")
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(group_of, "show", "show a release: its history, evaluations, flags, shadow runs and the drift of its input")
    show.add_argument("release", metavar="RELEASE", help=WHICH)
    with_json(show)
    show.set_defaults(run=_show)
    for name, text, run in (
        ("shadow", "let a release look on: it gets what the deployed one gets, and nothing of it is shown or sent", _shadow),
        ("deploy", "put a release into use, if its evaluation meets the gate; the one before it is retired", _deploy),
        ("retire", "take a release out of use", _retire),
    ):
        step = command(group_of, name, text)
        step.add_argument("release", metavar="RELEASE", help=WHICH)
        with_reason(step)
        with_json(step)
        step.set_defaults(run=run)
    recalling = command(
        group_of,
        "recall",
        "take a bad release and all its results back",
        description="Retire the release, list every study that it touched, mark its results as recalled and send a rejection note (Key\n"
        "Object Selection) to the peers that have them. What waits is canceled. Called again, it goes on where it ended.",
        example='dicom-node release recall cxr_lungs@1.2 --reason "lungs are swapped on lateral views"',
    )
    recalling.add_argument("release", metavar="RELEASE", help=f"{WHICH}; or the bundle of a folder, by name")
    with_reason(recalling)
    with_json(recalling)
    recalling.set_defaults(run=_recall)
    back = command(group_of, "rollback", "put the release back that was deployed before", example="dicom-node release rollback cxr_lungs")
    back.add_argument("release", metavar="NAME")
    back.add_argument("--reason", default="rolled back", help="why; kept with the release")
    with_json(back)
    back.set_defaults(run=_rollback)


def _add(arguments: argparse.Namespace) -> None:
    from dicom_node.node import prepare
    from dicom_node.releases import lifecycle
    from models.bundle import find_bundle

    config = configuration(arguments)
    folder = arguments.folder if arguments.folder.is_dir() else find_bundle(str(arguments.folder), config.node.bundles)
    prepare(config)
    with index_of(config) as database:
        done = lifecycle.add(config, database, folder, arguments.evaluation, who=who(), reason=arguments.reason, now=time.time())
    if arguments.json:
        output.data(done)
        return
    release = done.release
    output.line(f"{_title(release)}: {'added as a candidate' if done.new else f'known, and {release.state}'}")
    if done.evaluation is not None:
        output.line(f"with its evaluation on {done.evaluation.data} ({done.evaluation.split}, {done.evaluation.items} items)")


def _list(arguments: argparse.Namespace) -> None:
    from storage import release_watch, releases

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = releases.every(connection, arguments.name)
        flagged: dict[int, list[str]] = {}
        for flag in release_watch.flags(connection):
            flagged.setdefault(flag.release_pk, []).append(flag.kind)
    if arguments.json:
        output.data([{**output.plain(each), "flags": flagged.get(each.pk, [])} for each in found])
        return
    rows = [
        (each.name, each.version, each.digest[:12], each.state, output.moment(each.state_at), ", ".join(flagged.get(each.pk, [])))
        for each in found
    ]
    output.table(("model", "version", "release digest", "state", "since", "flags"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from dicom_node.releases.overview import overview

    config = configuration(arguments)
    with index_of(config) as database:
        shown = overview(config, database, arguments.release)
    if arguments.json:
        output.data(shown)
        return
    for line in _lines(shown):
        output.line(line)


def _lines(shown: Overview) -> list[str]:
    release = shown.release
    lines = [f"{_title(release)}: {release.state} since {output.moment(release.state_at)}"]
    lines += [f"  release digest {release.digest}", f"  files in {shown.folder}{'' if shown.sound else f': {shown.problem}'}"]
    lines += [f"  FLAGGED {output.moment(flag.raised_at)} ({flag.kind}): {flag.reason}" for flag in shown.flags]
    lines += ["history"]
    lines += [f"  {output.moment(e.at)}  {e.before or '-'} > {e.after} by {e.actor}: {e.reason}" for e in shown.events]
    lines += ["gate", *(f"  {'met' if each.met else 'NOT MET'}: {each}" for each in shown.gate.judged)]
    lines += [f"  NOT MET: {each}" for each in shown.gate.missing]
    if shown.evaluations:
        lines += ["evaluations"]
    for each in shown.evaluations:
        how = {None: "", True: ", meets the gate", False: ", BELOW THE GATE"}[each.passed]
        where = f"{each.data}, {each.split} split, {each.items} items"
        lines += [f"  {output.moment(each.at)}  {where}; {each.source} by {each.actor}{how}; report {each.digest[:12]}"]
        lines += [f"      {name} {_figure(figure)}" for name, figure in islice(each.metrics.items(), MOST_FIGURES)]
        if len(each.metrics) > MOST_FIGURES:
            lines += [f"      and {len(each.metrics) - MOST_FIGURES} more: --json"]
    if shown.shadow.runs:
        lines += ["in the shadow", *(f"  {line}" for line in shown.shadow.lines())]
    if shown.drift is not None:
        lines += [f"drift of the input, over {shown.drift.runs} runs, {output.moment(shown.drift.at)}"]
        for name, far in sorted(shown.drift.distances.items(), key=lambda pair: -pair[1]["distance"]):
            lines += [f"  {'DRIFTED' if far['drifted'] else 'ok'}  {name}: {far['distance']:.3f} ({far['kind']})"]
    return lines


def _shadow(arguments: argparse.Namespace) -> None:
    from dicom_node.releases import lifecycle

    _step(arguments, _changed(arguments, lifecycle.shadow))


def _retire(arguments: argparse.Namespace) -> None:
    from dicom_node.releases import lifecycle

    _step(arguments, _changed(arguments, lifecycle.retire))


def _deploy(arguments: argparse.Namespace) -> None:
    from dicom_node.releases import lifecycle

    _deployed(arguments, _changed(arguments, lifecycle.deploy))


def _rollback(arguments: argparse.Namespace) -> None:
    from dicom_node.releases import lifecycle

    _deployed(arguments, _changed(arguments, lifecycle.rollback))


def _recall(arguments: argparse.Namespace) -> None:
    from dicom_node.releases.recall import recall

    with quiet_node(configuration(arguments)) as node:
        done = recall(node, arguments.release, who=who(), reason=arguments.reason, now=time.time())
    if arguments.json:
        output.data(done)
        return
    again = sum(not each.new for each in done.runs)
    output.line(f"{done.name} {done.version} ({done.digest[:12]}) is recalled: {len(done.runs)} runs on {len(done.studies)} studies")
    if again:
        output.line(f"{again} of them were recalled before")
    rows = [(each.study_uid, each.run, each.state, ", ".join(each.peers) or "-", "now" if each.new else "before") for each in done.runs]
    output.table(("study", "run", "state", "note to", "recalled"), rows)


def _changed(arguments: argparse.Namespace, change: Callable[..., Done]) -> Done:
    config = configuration(arguments)
    with index_of(config) as database:
        return change(config, database, arguments.release, who=who(), reason=arguments.reason, now=time.time())


def _step(arguments: argparse.Namespace, release: ReleaseRecord) -> None:
    if arguments.json:
        output.data(release)
    else:
        output.line(f"{_title(release)} is {release.state}")


def _deployed(arguments: argparse.Namespace, done: Deployed) -> None:
    if arguments.json:
        output.data(done)
        return
    for each in done.judged:
        output.line(f"met: {each}")
    output.line(f"{_title(done.release)} is deployed; studies that complete from now on get it")
    if done.replaced is not None:
        output.line(f"{_title(done.replaced)} is retired; back to it: dicom-node release rollback {done.release.name}")


def _figure(figure: Mapping[str, Any]) -> str:
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "undefined"
    return f"{value:.4g}" + ("" if low is None or high is None else f" ({low:.4g} to {high:.4g})")


def _title(release: ReleaseRecord) -> str:
    return f"{release.name} {release.version} ({release.digest[:12]})"
