"""``rule list | test | replay | release``."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node import clock
from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, quiet_node, who, with_json, with_reason
from dicom_node.config import Config, find_file, load
from dicom_node.config_values import duration
from dicom_node.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from dicom_node.config_rules import Rule, Select


def add(commands: Any) -> None:
    rules = group(commands, "rule", "routing rules: list, test, replay, release")
    listing = command(rules, "list", "list the rules in their order, and whether the running node has them")
    with_json(listing)
    listing.set_defaults(run=_list)
    test = command(
        rules,
        "test",
        "tell what the rules make of a stored study; nothing is done",
        description="For every rule: whether it matches, or the first attribute that keeps it out; which series are chosen and which\n"
        "are not, with reasons; and what would be done.",
        example="dicom-node rule test 1.2.840... --rules new.toml",
    )
    test.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    _with_rules(test)
    with_json(test)
    test.set_defaults(run=_test)
    replay = command(
        rules,
        "replay",
        "what these rules would have done with past studies, as differences to what was done",
        description="Judges every study that became complete within the time and is still stored. Lines with + would be done and were\n"
        "not, lines with - were done and would not be. Nothing is done.",
        example="dicom-node rule replay --since 30d --rules new.toml",
    )
    replay.add_argument("--since", default="30d", metavar="TIME", help="how far back, e.g. 12h or 30d (default: 30d)")
    _with_rules(replay)
    with_json(replay)
    replay.set_defaults(run=_replay)
    release = command(
        rules,
        "release",
        "let a study go on that a rule holds for review",
        example='dicom-node rule release 1.2.840... --reason "looked at, fine"',
    )
    release.add_argument("uid", metavar="UID", help="Study Instance UID; a series' or an instance's finds its study")
    with_reason(release)
    release.set_defaults(run=_release)


def _with_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", metavar="FILE", help="take rules and peers of this configuration, and the archive of --config")


def _configured(arguments: argparse.Namespace) -> Config:
    """The configuration, with the rules and peers of --rules."""
    config = configuration(arguments)
    if arguments.rules is None:
        return config
    other = load(Path(arguments.rules))
    return config.model_copy(update={"rule": other.rule, "peer": other.peer})


def _list(arguments: argparse.Namespace) -> None:
    from dicom_node.routing.live import running_state

    try:
        config = configuration(arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}{_kept(find_file(arguments.config))}") from error
    running = running_state(config.runtime_dir)
    if arguments.json:
        output.data({"rules": [rule.model_dump(by_alias=True, exclude_defaults=True) for rule in config.rule], "running": running})
        return
    rows = [(number, rule.name, conditions(rule), actions(rule)) for number, rule in enumerate(config.rule, 1)]
    output.table(("", "rule", "speaks of", "does"), rows)
    if running is None:
        output.note("no node is running on this configuration")
        return
    output.note(f"the running node took its rules {output.moment(running.taken_at)}: {', '.join(running.rules) or 'none'}")
    if running.problem:
        output.note(f"REFUSED {output.moment(running.refused_at)}, and the rules before it kept: {running.problem}")
    if running.restart_for:
        output.note(f"changed beside rules, and in use after a restart: {', '.join(running.restart_for)}")


def _kept(file: Path) -> str:
    """Of a file that is broken, yet says where the data lie: which rules the node that runs there has."""
    from dicom_node.routing.live import running_state

    try:
        data_dir = tomllib.loads(file.read_text(encoding="utf-8")).get("node", {}).get("data_dir", Config().node.data_dir)
        running = running_state(file.absolute().parent / data_dir / Config().runtime_dir.name)
    except (OSError, ValueError, AttributeError, TypeError):
        return ""
    if running is None:
        return ""
    return f"\nthe running node keeps the rules that it took {output.moment(running.taken_at)}: {', '.join(running.rules) or 'none'}"


def conditions(rule: Rule) -> str:
    """Of what a rule speaks, in words."""
    from dicom_node.routing.rules import window_words

    parts = [f"{keyword} = {_value(value)}" for keyword, value in rule.match.items()]
    parts += [f"select {_select(rule.select)}"] if rule.select else []
    parts += [f"from {' or '.join(rule.sources)}"] if rule.sources else []
    parts += [f"called {' or '.join(rule.called)}"] if rule.called else []
    parts += [f"complete {' or '.join(map(window_words, rule.when))}"] if rule.when else []
    return "; ".join(parts) or "every series"


def actions(rule: Rule) -> str:
    """What a rule does, in words."""
    parts = [f"ignore: {rule.ignore}"] if rule.ignore else []
    parts += [f"hold: {rule.hold}"] if rule.hold else []
    parts += [f"tag {', '.join(rule.tags)}"] if rule.tags else []
    to = f", results to {', '.join(rule.deliver)}" if rule.deliver else ""
    parts += [f"run {', '.join(rule.run)}{to}"] if rule.run else []
    for forward in rule.forward:
        which = " and ".join(f"{keyword} = {_value(value)}" for keyword, value in forward.series.items())
        syntax = f" as {forward.transfer_syntax}" if forward.transfer_syntax else ""
        parts.append(f"forward {f'series with {which} ' if which else ''}to {', '.join(forward.to)}{syntax}")
    parts += [f"priority {rule.priority:+d}"] if rule.priority else []
    return "; ".join(parts)


def _select(select: Select) -> str:
    chosen = select.model_dump(exclude_defaults=True)
    return ", ".join(f"{key} {_value(value)}" for key, value in chosen.items())


def _value(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _test(arguments: argparse.Namespace) -> None:
    from dicom_node.routing import shown
    from dicom_node.routing.trial import try_rules

    config = _configured(arguments)
    with quiet_node(config) as node:
        plan, facts = try_rules(config, node, arguments.uid)
    if arguments.json:
        output.data(shown.as_values(plan))
        return
    for text in shown.sentences(plan, facts):
        output.line(text)


def _replay(arguments: argparse.Namespace) -> None:
    from dicom_node.routing.replay import replay

    config = _configured(arguments)
    try:
        since = clock.system() - duration(arguments.since)
    except ValueError as error:
        raise UsageError(f"--since {arguments.since}: {error}") from error
    with quiet_node(config) as node:
        report = replay(config, node.database, node.archive, since)
    if arguments.json:
        output.data({"since": since, "studies": report.studies, "differing": report.differing, "planned": report.planned,
                     "summary": report.summary, "differences": report.differences})  # fmt: skip
        return
    rows = [(each.change, each.what, each.study_uid, each.why) for each in report.differences]
    output.table(("", "what", "study", "why"), rows)
    output.note(f"{report.studies} studies since {output.moment(since)}; {report.differing} would be treated otherwise")
    for what, counts in sorted(report.summary.items()):
        output.note(f"  {what}: +{counts['+']} -{counts['-']}")


def _release(arguments: argparse.Namespace) -> None:
    from dicom_node.actions import release_study

    config = configuration(arguments)
    with index_of(config) as database:
        study, job = release_study(config, database, arguments.uid, who=who(), why=arguments.reason, now=clock.system())
    output.line(f"study {study} is released and routed by job {job}; see: dicom-node study show {study}")
