"""What every table of the index is built with: one metadata, its naming convention, and the column types that both databases share."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Integer, MetaData, Text

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Compared byte by byte on PostgreSQL too, whatever its locale, so that an index serves ranges and beginnings.
Bytewise = Text().with_variant(Text(collation="C"), "postgresql")
Big = BigInteger().with_variant(Integer, "sqlite")


def pk_column() -> Column[int]:
    """The surrogate key of a table."""
    return Column("pk", Big, primary_key=True, autoincrement=True)
