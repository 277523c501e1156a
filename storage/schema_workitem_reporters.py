"""Who sends event reports of workitems to which subscriber by DIMSE, one at a time, and how that goes."""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, Table, Text

from storage.schema_base import metadata

workitem_reporter = Table(
    "workitem_reporter",
    metadata,
    Column("aet", Text, primary_key=True),
    Column("holder", Text),  # an association of the subscriber, or whoever calls it
    Column("held_until", Float, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),  # that failed since a report was last taken
    Column("next_at", Float, nullable=False, server_default="0"),
    Column("detail", Text, nullable=False, server_default=""),
)
