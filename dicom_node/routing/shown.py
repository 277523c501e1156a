"""A plan in readable lines, and as plain values for ``--json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dicom_node.routing.plan import Plan, Spoken
from storage.rule_facts import StudyFacts


def sentences(plan: Plan, study: StudyFacts) -> Iterator[str]:
    """What every rule says of a study, and what would be done."""
    yield f"Study {plan.study_uid}, revision {plan.revision}: {len(study.series)} series, {study.instances} instances"
    for spoken in plan.spoken:
        yield ""
        yield from _rule(plan, spoken, study)
    yield ""
    yield "What would be done"
    yield from (f"  {line}" for line in effects(plan))


def _rule(plan: Plan, spoken: Spoken, study: StudyFacts) -> Iterator[str]:
    rule = spoken.rule
    if not spoken.matched:
        yield f"Rule {rule.name}: does not match: {spoken.why_not}"
    else:
        yield f"Rule {rule.name}: matches {len(spoken.series_uids)} of {len(study.series)} series"
    if spoken.matched:
        yield from (f"  not {title(study, uid)}: {reason}" for uid, reason in spoken.outside.items())
    for outcome in plan.outcomes:
        if outcome.rule is not rule:
            continue
        yield f"  model {outcome.name}: {outcome.why}"
        for choice in outcome.selection.choices if outcome.selection and spoken.matched else ():
            yield f"    {'CHOSEN' if choice.chosen else 'not chosen'} {title(study, choice.series_uid)}: {choice.reason}"
    for forward in plan.forwards:
        if forward.rule == rule.name:
            yield f"  forward to {forward.peer}{forward.how}"
            for choice in forward.choices:
                yield f"    {'CHOSEN' if choice.chosen else 'not chosen'} {title(study, choice.series_uid)}: {choice.reason}"


def title(study: StudyFacts, series_uid: str) -> str:
    """A series in a few words."""
    facts = study.series[series_uid]
    attributes = facts.attributes
    description = attributes.get("SeriesDescription") or "no description"
    return f"series {attributes.get('SeriesNumber') or '-'} {attributes.get('Modality')} '{description}' ({facts.instances} instances)"


def effects(plan: Plan) -> Iterator[str]:
    """What would be done, with the conflicts between rules."""
    for said, count in Counter(plan.ignored.values()).items():
        yield f"{count} series are left out of all other rules (rule {said.rule}: {said.text})"
    for said in plan.holds:
        yield f"HELD for review (rule {said.rule}: {said.text}); what follows waits until it is released"
    if plan.tags:
        yield "tags: " + ", ".join(f"{said.text} (rule {said.rule})" for said in plan.tags)
    if plan.urgency:
        yield f"priority {plan.urgency:+d} for all of its work (rule {plan.urgent_by})"
    seen: dict[tuple[str, str, str], str] = {}
    for outcome in plan.outcomes:
        if outcome.chosen is None or outcome.selection is None:
            continue
        bundle, rule = outcome.chosen.bundle, outcome.rule
        for group in outcome.selection.groups:
            uid = " and ".join(f"{uid} ({name})" if name else uid for name, uid in group.items())
            key = (bundle.digest, uid, "shadow" if outcome.shadow else "")
            to = f", results to {', '.join(rule.deliver)}" if rule.deliver and not outcome.shadow else ""
            if key in seen:
                yield f"rule {rule.name} runs nothing more: {bundle.name} runs on series {uid} by rule {seen[key]} already{to}"
            else:
                looks_on = ", looking on" if outcome.shadow else to
                yield f"run {bundle.name} {bundle.version} on series {uid} (rule {rule.name}, priority {plan.priority_of(rule)}{looks_on})"
            seen.setdefault(key, rule.name)
    for forward in plan.forwards:
        if forward.series_uids:
            what = f"{forward.instances} instances of {len(forward.series_uids)} series"
            yield f"send {what} to {forward.peer}{forward.how} (rule {forward.rule}, priority {forward.priority})"
    if not does_anything(plan):
        yield "nothing"


def does_anything(plan: Plan) -> bool:
    """Whether a plan leaves any trace but its reasons."""
    works = any(outcome.selection is not None and outcome.selection.chosen for outcome in plan.outcomes)
    return bool(plan.ignored or plan.holds or plan.tags or plan.urgency or works or any(forward.series_uids for forward in plan.forwards))


def as_values(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""
    return {
        "study_uid": plan.study_uid,
        "revision": plan.revision,
        "rules": [
            {
                "rule": spoken.rule.name,
                "matched": spoken.matched,
                "why_not": spoken.why_not,
                "series": list(spoken.series_uids),
                "outside": dict(spoken.outside),
            }
            for spoken in plan.spoken
        ],
        "ignored": {uid: {"rule": said.rule, "reason": said.text} for uid, said in plan.ignored.items()},
        "held": [{"rule": said.rule, "reason": said.text} for said in plan.holds],
        "tags": [{"rule": said.rule, "tag": said.text} for said in plan.tags],
        "priority": {"added": plan.urgency, "rule": plan.urgent_by} if plan.urgency else None,
        "models": [
            {
                "rule": outcome.rule.name,
                "model": outcome.name,
                "shadow": outcome.shadow,
                "verdict": outcome.selection.verdict.value if outcome.selection else "not run",
                "why": outcome.why,
                "priority": plan.priority_of(outcome.rule),
                "deliver": [] if outcome.shadow else list(outcome.rule.deliver),
                "series": _choices(outcome.selection.choices) if outcome.selection else [],
            }
            for outcome in plan.outcomes
        ],
        "forwards": [
            {
                "rule": forward.rule,
                "peer": forward.peer,
                "transfer_syntax": forward.transfer_syntax,
                "deidentified": forward.deidentify is not None,
                "priority": forward.priority,
                "instances": forward.instances,
                "series": _choices(forward.choices),
            }
            for forward in plan.forwards
        ],
        "effects": list(effects(plan)),
    }


def _choices(choices: Any) -> list[dict[str, Any]]:
    return [{"series_uid": each.series_uid, "chosen": each.chosen, "reason": each.reason} for each in choices]
