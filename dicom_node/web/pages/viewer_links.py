"""The addresses by which the viewer opens studies: what was found on top, where it can show that."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from sqlalchemy import Connection, and_, exists, or_, select

from dicom_node.viewer import BASE
from storage.schema import instance, series, study


def viewer_url(study_uid: str, first: str | None = None) -> str:
    """The address of a study; ``first``: the series that is opened."""
    more = {"initialSeriesInstanceUID": first} if first else {}
    return f"{BASE}/viewer?{urlencode({'StudyInstanceUIDs': study_uid, **more})}"


def first_series(connection: Connection, study_uids: Sequence[str]) -> dict[str, str]:
    """Study > the series that the viewer opens first: its newest segmentation, else its newest secondary capture that this node made.

    A segmentation without a Frame of Reference, of a radiograph, is none that this viewer can lay over its image.
    """
    if not study_uids:
        return {}
    own = exists().where(instance.c.series_pk == series.c.pk, instance.c.origin == "emitted")
    placed = and_(series.c.modality == "SEG", series.c.frame_of_reference_uid != "")
    captured = and_(series.c.modality == "OT", own)
    query = select(study.c.study_uid, series.c.modality, series.c.series_uid).join(study, study.c.pk == series.c.study_pk)
    query = query.where(study.c.study_uid.in_(study_uids), or_(placed, captured))
    found: dict[str, tuple[bool, str]] = {}
    for row in connection.execute(query.order_by(series.c.pk)):
        best = found.get(row.study_uid)
        if best is None or row.modality == "SEG" or not best[0]:
            found[row.study_uid] = row.modality == "SEG", row.series_uid
    return {of: uid for of, (_, uid) in found.items()}
