"""Two administrators who take each other's role away in the same moment: one of them stays, on each kind of database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from storage import accounts
from storage.database import Database
from storage.errors import IndexUnavailable
from storage.visibility import Limits


def test_one_of_two_who_demote_each_other_stays(database: Database) -> None:
    with database.begin() as connection:
        both = [accounts.add(connection, name, "no password", "administrator", Limits(), actor="test") for name in ("ada", "ben")]
    ready = threading.Barrier(2)

    def demote(number: int) -> None:
        other = both[1 - number]
        ready.wait(20)
        try:
            with database.begin() as connection:
                found = accounts.of_pk(connection, other.pk)
                if not accounts.is_last_administrator(connection, found):
                    accounts.change(connection, found, "role_changed", actor=both[number].name, role="viewer")
        except IndexUnavailable:
            pass  # one of two that hold each other up is given up; whoever asked is told to come again

    for _ in range(10):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(demote, range(2)))
        with database.begin() as connection:
            left = [each for each in accounts.every(connection) if each.role == "administrator"]
            assert left
            for each in accounts.every(connection):
                accounts.change(connection, each, "role_changed", actor="test", role="administrator")
