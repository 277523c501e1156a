"""``study feedback``: a person's word about what a model found, and what there is to speak of."""

from __future__ import annotations

import argparse
from typing import Any

from dicom_node import clock
from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, index_of, who, with_json
from dicom_node.errors import UsageError

VERDICTS = ("accept", "modify", "reject")


def add(studies: Any) -> None:
    parser = command(
        studies,
        "feedback",
        "accept, modify or reject what a model found in a study",
        description="Without a verdict: list what the study's runs found, and what was said about it. With one: keep it. Every word\n"
        "is kept and the newest counts; data export writes it beside the images.",
        example="dicom-node study feedback 1.2.840... reject --finding segment:Lungs --code wrong_extent",
    )
    parser.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    parser.add_argument("verdict", nargs="?", choices=VERDICTS)
    parser.add_argument("--run", dest="run_pk", type=int, metavar="RUN", help="the run that is judged (default: the study's only one)")
    parser.add_argument("--finding", default="result", metavar="NAME", help="as the list names it (default: the result as a whole)")
    parser.add_argument("--code", default="", metavar="CODE", help="why: false_positive, wrong_extent, ...; a wrong one lists them")
    parser.add_argument("--reason", default="", help="why, in words")
    parser.add_argument("--corrected", metavar="VALUE", help="what is right: a number or a class")
    parser.add_argument("--corrected-in", metavar="UID", help="SOP Instance UID of a SEG that was received, in which it was corrected")
    parser.add_argument("--seen", type=int, metavar="REVISION", help="refuse where somebody spoke after this revision")
    with_json(parser)
    parser.set_defaults(run=_feedback)


def _feedback(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import give_feedback, study_of
    from storage.feedback import Word, findings_of
    from storage.timeline import timeline

    with index_of(configuration(arguments)) as database:
        with database.read() as connection:
            study = study_of(connection, arguments.uid)
        if arguments.verdict is None:
            _list(timeline(database, study), as_json=arguments.json)
            return
        results = [each.run for each in timeline(database, study).runs if each.run.state == "COMPLETED" and not each.run.shadow]
        run = arguments.run_pk
        if run is None:
            bearing = [each for each in results if any(found.key == arguments.finding for found in findings_of(each))]
            if len(bearing) != 1:
                named = ", ".join(f"{each.pk} ({each.bundle})" for each in results) or "none"
                raise UsageError(f"name the run with --run: {len(bearing)} runs found '{arguments.finding}'; the study's runs: {named}")
            run = bearing[0].pk
        word = Word(arguments.verdict, arguments.corrected, arguments.corrected_in, arguments.code, arguments.reason)
        asked = {"seen": arguments.seen, "who": who(), "now": clock.system()}
        given = give_feedback(database, study, run, arguments.finding, word, **asked)
    if arguments.json:
        output.data(given)
    else:
        output.line(f"{given.verdict} of {given.finding} of run {given.run_pk} is kept (revision {given.revision})")


def _list(story: Any, *, as_json: bool) -> None:
    from storage.feedback import findings_of, newest

    said = newest(story.feedback)
    rows = []
    for each in story.runs:
        if each.run.state == "COMPLETED" and not each.run.shadow:
            for found in findings_of(each.run):
                word = said.get((each.run.pk, found.key))
                value = "" if found.value is None else f"{found.value} {found.unit}".strip()
                told = ("", "", 0) if word is None else (word.verdict, word.code, word.revision)
                rows.append((each.run.pk, f"{each.run.bundle} {each.run.bundle_version}", found.key, value, *told))
    heading = ("run", "model", "finding", "value", "verdict", "code", "revision")
    if as_json:
        output.data([dict(zip(heading, row, strict=True)) for row in rows])
    else:
        output.table(heading, rows)
