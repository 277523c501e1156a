"""The history of the index's tables. Each file in ``versions`` leads from one revision to the next, on SQLite and PostgreSQL alike.

A migration spells its tables out and never imports :mod:`storage.schema`: that file is the newest revision, a migration is a fixed one.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the missing migrations inside the connection's transaction."""
    command.upgrade(_config(connection), revision)


def current(connection: Connection) -> str | None:
    """Name the revision of the tables that ``connection`` sees."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """Name the newest revision this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()
