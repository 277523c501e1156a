"""Of what a rule speaks: who sent a series, when its study became complete, and its attributes (PS3.4 C.2.2.2 matching, letters folded)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dicom_node.config_rules import DAYS, Rule, Window, minutes_of
from storage.matching import matches, mismatch, value_matches
from storage.rule_facts import SeriesFacts

Attributes = Mapping[str, Any]

# Whose values are not quoted in reasons, which go to logs.
_IDENTIFYING = frozenset({
    "AccessionNumber", "AdmissionID", "IssuerOfPatientID", "MilitaryRank", "NameOfPhysiciansReadingStudy", "OperatorsName",
    "OtherPatientIDs", "OtherPatientNames", "PerformingPhysicianName", "PhysiciansOfRecord", "ReferringPhysicianName",
    "RequestingPhysician", "ResponsiblePerson", "StudyID",
})  # fmt: skip
_COARSE = frozenset({"PatientSex", "PatientPosition", "PatientSpeciesDescription", "PatientIdentityRemoved"})


def identifies(keyword: str) -> bool:
    """Whether an attribute may say who somebody is."""
    return keyword in _IDENTIFYING or (keyword.startswith("Patient") and keyword not in _COARSE)


def why_not(match: Mapping[str, Any], attributes: Attributes) -> str | None:
    """Name the first attribute of a series that keeps it out; None when all match. No value is quoted that may say who somebody is."""
    for keyword, value in match.items():
        sentence = mismatch({keyword: value}, attributes, ignore_case=True)
        if sentence is not None:
            return f"{keyword} does not match" if identifies(keyword) else sentence
    return None


def any_matches(tables: Sequence[Mapping[str, Any]], attributes: Attributes) -> bool:
    """Whether at least one table of attributes matches."""
    return any(matches(table, attributes, ignore_case=True) for table in tables)


def keeps_out(rule: Rule, series: SeriesFacts) -> str | None:
    """Say why a rule does not speak of a series; None when it does."""
    for what, wanted, titles in (("came from", rule.sources, series.sources), ("was sent to", rule.called, series.called)):
        if wanted and not _titles_match(wanted, titles):
            return f"it {what} {_or(sorted(titles))}, not {_or(wanted)}"
    return why_not(rule.match, series.attributes)


def out_of_time(rule: Rule, at: float) -> str | None:
    """Say why a rule does not speak of a study that became complete ``at`` then; None when it does."""
    if not rule.when or any(within(window, at) for window in rule.when):
        return None
    moment = datetime.fromtimestamp(at)
    return f"the study was complete {DAYS[moment.weekday()]} {moment:%H:%M}, not {_or(map(window_words, rule.when))}"


def _titles_match(wanted: Iterable[str], titles: Iterable[str]) -> bool:
    return any(value_matches(pattern, title, multi=False) for pattern in wanted for title in titles)


def within(window: Window, at: float) -> bool:
    """Whether a time is in a window, by the clock on the wall. Hours that go over midnight count for the day on which they began."""
    moment = datetime.fromtimestamp(at)
    minute, today, yesterday = moment.hour * 60 + moment.minute, DAYS[moment.weekday()], DAYS[moment.weekday() - 1]
    days = window.days or DAYS
    if not window.hours:
        return today in days
    for part in window.hours:
        begin, end = minutes_of(part)
        if begin < end:
            if today in days and begin <= minute < end:
                return True
        elif (today in days and minute >= begin) or (yesterday in days and minute < end):
            return True
    return False


def window_words(window: Window) -> str:
    """A window in words: ``mon,tue 08:00-18:00``."""
    return " ".join(filter(None, (",".join(window.days), ",".join(window.hours))))


def _or(texts: Iterable[str]) -> str:
    return " or ".join(repr(text) for text in texts) or "nobody that is known"
