"""How far somebody reaches who is limited to sources or modalities: to such studies, and to nothing that tells of others.

What does not name a study is closed to them, but for the addresses below, which leave out what they may not see.
"""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import select
from starlette.datastructures import QueryParams

from dicom_node.web.identities import Principal
from storage import audit
from storage.database import Database
from storage.schema import study
from storage.visibility import visible

STUDY: Final = re.compile(r"(?:/dicom-web|/api)?/studies/([0-9.]{1,64})(?:/.*)?")
WADO: Final = "/wado"
FILTERED: Final = re.compile(r"/|/worklist(/.*)?|/events|/account(/.*)?|/sign-out|/dicom-web/(studies|series|instances)|/api/studies")


STOW: Final = "/dicom-web/studies"


def refusal(database: Database, principal: Principal, method: str, path: str, query: bytes) -> str:
    """Why a limited principal gets no answer there, noted in the audit trail; empty where it does."""
    if path == STOW and method not in ("GET", "HEAD"):
        # What is stored could be of any study, and by its own series that one would come within the limits.
        return f"'{principal.name}' is limited to some studies, and stores in these only: POST to {STOW}/ and the study's UID"
    found = STUDY.fullmatch(path)
    named = found.group(1) if found else ""
    if path == WADO:
        named = QueryParams(query).get("studyUID", "").strip()  # as the service reads it, also where it is named twice
    if named:
        with database.read() as connection:
            condition = visible(principal.limits)
            if condition is None or connection.scalar(select(study.c.pk).where(study.c.study_uid == named, condition)) is not None:
                return ""
            known = connection.scalar(select(study.c.pk).where(study.c.study_uid == named)) is not None
        if known:
            with database.begin(durable=False) as connection:
                audit.record(connection, "study.refused", actor=principal.name, study_uid=named, detail={"path": path[:200]})
        return "no such study"
    if FILTERED.fullmatch(path):
        return ""
    return f"'{principal.name}' is limited to some studies, and this tells of others"
