"""Tags that rules gave to studies; they stand in the audit trail, and stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, exists, select

from storage.schema import audit, study

TAGGED_EVENT = "route.tagged"  # its detail has the tag


def has_tag(tag: str) -> ColumnElement[bool]:
    """Condition on a study: a rule gave it this tag."""
    given = audit.c.event == TAGGED_EVENT, audit.c.detail["tag"].as_string() == tag
    return exists().where(audit.c.study_uid == study.c.study_uid, *given)


def tags_of(connection: Connection, study_uids: Sequence[str]) -> dict[str, list[str]]:
    """The tags of some studies, in the order in which they were given first; a study without any is left out."""
    query = select(audit.c.study_uid, audit.c.detail["tag"].as_string()).where(audit.c.study_uid.in_(list(study_uids)))
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for uid, tag in connection.execute(query.where(audit.c.event == TAGGED_EVENT).order_by(audit.c.pk)):
        if tag is not None:
            found[uid][tag] = None
    return {uid: list(tags) for uid, tags in found.items()}
