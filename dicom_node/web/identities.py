"""Whose session or token a request bears, looked up in the index and remembered for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from dicom_node.accounts import RIGHTS_OF_ROLE, digest_of
from storage import accounts
from storage.accounts import Account
from storage.database import Database
from storage.errors import StorageError
from storage.visibility import NO_LIMITS, Limits

T = TypeVar("T")

MOMENT: Final = 2.0  # seconds: so late is noticed that an account was disabled or a session ended elsewhere
MOST: Final = 10_000  # remembered at most
TOUCH_EVERY: Final = 60.0
COOKIE: Final = "dicom_node_session"
SESSION, TOKEN = "session ", "token "  # what a secret is of; one is never taken for the other
SECURE_COOKIE: Final = f"__Host-{COOKIE}"


@dataclass(frozen=True)
class Principal:
    """Whoever asks: a name, what it may do, and which studies it may see.

    ``csrf`` is what its forms bear where a browser's session speaks; ``account_pk`` where there is an account behind it.
    """

    name: str
    rights: frozenset[str]
    role: str = ""
    limits: Limits = NO_LIMITS
    language: str | None = None
    theme: str | None = None
    csrf: str = ""
    account_pk: int | None = None

    def may(self, right: str) -> bool:
        return right in self.rights


@dataclass
class Identities:
    """The principals of sessions and of accounts' tokens.

    ``idle`` and ``lifetime``: after how many seconds without a request, and at all, a session ends.
    """

    database: Database
    idle: float
    lifetime: float
    _known: dict[str, tuple[float, Principal | None]] = field(default_factory=dict)
    _touched: dict[str, float] = field(default_factory=dict)
    _any: tuple[float, bool] = (float("-inf"), False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accounts_known(self) -> bool | None:
        """The same without asking the index; None where it was not asked for a moment."""
        at, known = self._any
        return known if known or time.monotonic() - at <= MOMENT else None

    def accounts_exist(self) -> bool:
        """Whether somebody could sign in; noticed a moment after the first account was made."""
        known = self.accounts_known()
        if known is None:
            with self.database.read() as connection:
                known = accounts.exist(connection)
            self._any = (time.monotonic(), known)
        return known

    def remembered(self, kind: str, secret: str, *, by_person: bool = True) -> tuple[bool, Principal | None]:
        """Whether a session's or a token's secret was looked up a moment ago, and whose it was; without asking the index.

        ``by_person``: somebody sits before the browser, and the session is to be touched where that is due.
        """
        digest = digest_of(secret)
        at, found = self._known.get(kind + digest, (0.0, None))
        known = bool(at) and time.monotonic() - at < MOMENT
        return known and not (kind == SESSION and by_person and found is not None and self._is_due(digest)), found

    def of_session(self, secret: str, *, by_person: bool = True) -> Principal | None:
        """Whose session a cookie is of; what a page asks for by itself does not keep it alive."""
        known, found = self.remembered(SESSION, secret, by_person=by_person)
        return found if known else self._look_up(SESSION, secret, lambda digest: self._session(digest, by_person))

    def _is_due(self, digest: str) -> bool:
        """Whether a session that is used is to be touched."""
        return time.monotonic() - self._touched.get(digest, float("-inf")) > min(TOUCH_EVERY, self.idle / 2)

    def of_token(self, secret: str) -> Principal | None:
        """Whose token this is."""
        known, found = self.remembered(TOKEN, secret)
        return found if known else self._look_up(TOKEN, secret, self._token)

    def forget(self, secret: str) -> None:
        """A session was ended here."""
        with self._lock:
            self._known.pop(SESSION + digest_of(secret), None)

    def _look_up(self, kind: str, secret: str, find: Callable[[str], Principal | None]) -> Principal | None:
        digest = digest_of(secret)
        found = find(digest)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
                self._touched.clear()
            self._known[kind + digest] = (time.monotonic(), found)
        return found

    def _session(self, digest: str, by_person: bool) -> Principal | None:
        now = time.time()
        with self.database.read() as connection:
            found = accounts.session(connection, digest)
        if found is None or found.seen_at < now - self.idle or found.opened_at < now - self.lifetime:
            return None
        if by_person:
            self._touched[digest] = time.monotonic()
        if by_person and found.seen_at < now - min(TOUCH_EVERY, self.idle / 2):
            with suppress(StorageError), self.database.begin(durable=False) as connection:
                accounts.touch(connection, found.pk, now)  # reading goes on where nothing can be written; the session then ends sooner
        return principal(found.account, RIGHTS_OF_ROLE[found.account.role], csrf=found.csrf)

    def _token(self, digest: str) -> Principal | None:
        with self.database.read() as connection:
            found = accounts.token(connection, digest, time.time())
        if found is None:
            return None
        return principal(found.account, RIGHTS_OF_ROLE[found.account.role] & frozenset(found.rights))


def principal(account: Account, rights: frozenset[str], *, csrf: str = "") -> Principal:
    """An account as a principal."""
    return Principal(account.name, rights, account.role, account.limits, account.language, account.theme, csrf, account.pk)
