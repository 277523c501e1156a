"""Stored studies as rules see them: their rows, and where a rule or a model asks for more, the header of one instance of each series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dicom_node.config_rules import Rule
from dicom_node.routing.plan import Models, keywords
from dicom_node.work.attributes import series_attributes
from storage.rule_facts import StudyFacts, facts_of

if TYPE_CHECKING:
    from storage.archive import Archive
    from storage.database import Database


def look(database: Database, archive: Archive, study_uids: Sequence[str], rules: Sequence[Rule], models: Models) -> dict[str, StudyFacts]:
    """Read some studies; one that is gone is left out."""
    with database.read() as connection:
        found = facts_of(connection, study_uids)
    if keywords(rules, models):
        return {uid: _with_headers(archive, facts) for uid, facts in found.items()}
    return found


def _with_headers(archive: Archive, facts: StudyFacts) -> StudyFacts:
    attributes = series_attributes(archive, facts.study_uid, {uid: each.attributes for uid, each in facts.series.items()})
    return replace(facts, series={uid: replace(each, attributes=attributes[uid]) for uid, each in facts.series.items()})
