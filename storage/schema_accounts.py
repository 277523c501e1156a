"""People who sign in, the sessions of their browsers, and the tokens that they made for programs. No secret is kept, only digests."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, String, Table, Text

from storage.schema_base import Big, metadata, pk_column

account = Table(
    "account",
    metadata,
    pk_column(),
    Column("name", Text, nullable=False, unique=True),  # in lower case
    Column("password", Text, nullable=False),  # Argon2id, as its encoded string
    Column("role", String(16), nullable=False),  # viewer | radiologist | operator | administrator
    Column("sources", JSON, nullable=False),  # calling AE titles whose studies it may see; none: all
    Column("modalities", JSON, nullable=False),
    Column("language", String(8)),
    Column("theme", String(8)),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),  # of password, role, limits or state: sessions before it have ended
    Column("disabled_at", Float),
    Column("signed_in_at", Float),
)

web_session = Table(
    "web_session",
    metadata,
    pk_column(),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of what the cookie holds
    Column("account_pk", Big, ForeignKey("account.pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("csrf", Text, nullable=False),  # what every form of the session bears
    Column("address", Text, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)
Index("ix_web_session_seen_at", web_session.c.seen_at)

api_token = Table(
    "api_token",
    metadata,
    pk_column(),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the token
    Column("account_pk", Big, ForeignKey("account.pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("rights", JSON, nullable=False),  # of those of the account's role
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
)
