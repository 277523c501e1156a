"""``study list`` and ``study show``: what came in and everything that became of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from dicom_node import clock
from dicom_node.cli import output, study_feedback
from dicom_node.cli.common import command, configuration, group, index_of, who, with_json, with_reason
from dicom_node.cli.story import tell
from dicom_node.errors import UsageError


def add(commands: Any) -> None:
    studies = group(commands, "study", "studies: list them, or tell the whole story of one")
    listing = command(studies, "list", "list studies, latest first", example="dicom-node study list --match Modality=MR --json")
    listing.add_argument("--match", action="append", default=[], metavar="KEYWORD=VALUE", help="DICOM matching, e.g. StudyDate=20260101-")
    listing.add_argument("--state", choices=["RECEIVING", "COMPLETE"])
    listing.add_argument("--tag", metavar="TAG", help="only studies that a rule gave this tag")
    listing.add_argument("--limit", type=int, default=50)
    with_json(listing)
    listing.set_defaults(run=_list)
    show = command(
        studies,
        "show",
        "tell the whole story of a study",
        description="When and from whom it was received, why it is complete, which series was chosen for which model and\n"
        "why the others were not, which release ran how long on what, what was sent where and what was answered.",
    )
    show.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    with_json(show)
    show.set_defaults(run=_show)
    rerun = command(
        studies,
        "rerun",
        "run a complete study's models once more",
        description="Route a complete study once more and run what its rules choose, though the same input ran before: after its\n"
        "results were deleted, or where a destination lost them. Each new run names the one that it replaces; a flag that\n"
        "held the study is lifted.",
        example='dicom-node study rerun 1.2.840... --rule brain --reason "results were deleted by mistake"',
    )
    rerun.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    rerun.add_argument("--rule", metavar="NAME", help="only by this rule (default: by all)")
    rerun.add_argument("--release", metavar="NAME@VERSION", help="only this release's model, by it instead of the deployed one")
    with_reason(rerun)
    rerun.set_defaults(run=_rerun)
    choose = command(
        studies,
        "choose",
        "choose among series that fit a model equally well",
        description="Where several series fit a model equally well none is run until a person says which is meant; study show lists\n"
        "them. The choice stands over later images as long as that series fits.",
        example='dicom-node study choose 1.2.840... --rule brain --model brain_extraction --series 1.2.840... --reason "without motion"',
    )
    choose.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    choose.add_argument("--rule", required=True, metavar="NAME")
    choose.add_argument("--model", required=True, metavar="NAME")
    choose.add_argument("--input", default="", metavar="NAME", help="of a model of several inputs, which")
    choose.add_argument("--series", required=True, metavar="UID", help="the series that is meant")
    with_reason(choose)
    choose.set_defaults(run=_choose)
    study_feedback.add(studies)


def _filters(pairs: Iterable[str]) -> dict[str, str]:
    filters = {}
    for pair in pairs:
        keyword, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--match {pair}: write KEYWORD=VALUE")
        filters[keyword] = value
    return filters


def _list(arguments: argparse.Namespace) -> None:
    from storage import ambiguities, index
    from storage.tags import tags_of

    with index_of(configuration(arguments)) as database, database.read() as connection:
        try:
            wanted = {"state": arguments.state, "tag": arguments.tag, "limit": arguments.limit}
            found = index.studies(connection, _filters(arguments.match), **wanted)
            tags = tags_of(connection, [each.study_uid for each in found])
            waiting = ambiguities.studies_waiting(connection, [each.study_uid for each in found])
        except ValueError as error:
            raise UsageError(str(error)) from error
    if arguments.json:
        more = {each.study_uid: {"tags": tags.get(each.study_uid, []), "to_be_chosen": each.study_uid in waiting} for each in found}
        output.data([{**asdict(each), **more[each.study_uid]} for each in found])
        return
    rows = [
        (each.study_uid, each.state, "\\".join(each.modalities), each.study_date, each.study_description, each.series, each.instances,
         output.moment(each.last_received_at), ", ".join(tags.get(each.study_uid, [])),
         "; ".join(filter(None, (each.flag, "a series is to be chosen" if each.study_uid in waiting else None))))
        for each in found
    ]  # fmt: skip
    output.table(("study", "state", "modalities", "date", "description", "series", "instances", "last received", "tags", "flag"), rows)


def _show(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import study_of
    from storage.timeline import timeline

    with index_of(configuration(arguments)) as database:
        with database.read() as connection:
            study = study_of(connection, arguments.uid)
        story = timeline(database, study)
    if arguments.json:
        output.data(story)
    else:
        for text in tell(story):
            output.line(text)


def _choose(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import choose_series

    config, meant = configuration(arguments), {name: getattr(arguments, name) for name in ("rule", "model", "input", "series")}
    with index_of(config) as database:
        study, job = choose_series(config, database, arguments.uid, **meant, who=who(), why=arguments.reason, now=clock.system())
    what = f"study {study} is routed again by job {job}" if job else f"it is used once study {study} is complete and nothing holds it"
    output.line(f"series {arguments.series} is chosen; {what}; see: dicom-node study show {study}")


def _rerun(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import rerun_study

    config = configuration(arguments)
    with index_of(config) as database:
        asked = {"rule": arguments.rule, "release": arguments.release, "who": who(), "why": arguments.reason}
        study, job = rerun_study(config, database, arguments.uid, **asked, now=clock.system())
    output.line(f"study {study} is routed again by job {job}; see: dicom-node study show {study}")
