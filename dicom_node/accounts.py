"""Local accounts: passwords (Argon2id, RFC 9106), the rights of roles, and secrets that are handed out once and kept as digests."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Collection, Mapping
from typing import Final, Protocol

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection

from dicom_node.errors import UsageError
from storage import accounts
from storage.accounts import Account
from storage.database import Database

READ, REPORT, STORE, DELETE, OPERATE, ADMINISTER = "read", "report", "store", "delete", "operate", "administer"
RIGHTS_OF_ROLE: Final[Mapping[str, frozenset[str]]] = {
    "viewer": frozenset({READ}),
    "radiologist": frozenset({READ, REPORT}),
    "operator": frozenset({READ, REPORT, STORE, OPERATE}),
    "administrator": frozenset({READ, REPORT, STORE, DELETE, OPERATE, ADMINISTER}),
}
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
SHORTEST: Final = 12
LONGEST: Final = 1024
AT_ONCE: Final = 2  # passwords that are checked at the same time: guessing must not take the whole machine
WAIT: Final = 5.0  # seconds
TOKEN_MARK: Final = "dcmn_"  # so that scanners for leaked secrets know one when they see it


class SignIn(Protocol):
    """Who somebody is, by what they give: local accounts here, an identity provider elsewhere."""

    def check(self, name: str, password: str) -> Account | None:
        """The account, or None where name or password are wrong; the time taken does not tell which."""


class Busy(Exception):
    """Too many passwords are being checked."""


class LocalAccounts:
    """Passwords in this node's index."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._nobody = _hasher().hash(secrets.token_hex())

    def check(self, name: str, password: str) -> Account | None:
        """See `SignIn.check`.

        Raises
        ------
        Busy
            Too many are being checked for this one to get its turn in time.
        """
        with self._database.read() as connection:
            found = accounts.find(connection, name)
        known = self._nobody if found is None else found.password
        if not self._places.acquire(timeout=WAIT):
            raise Busy("too many people sign in at once; come again")
        try:
            right = matches(known, password)
        finally:
            self._places.release()
        return found if found is not None and right and found.disabled_at is None else None


def _hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)


def hashed(name: str, password: str) -> str:
    """A password as it is kept.

    Raises
    ------
    UsageError
        It is too short, too long, or the name.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"a password has {SHORTEST} to {LONGEST} characters")
    if password.casefold().strip() == name.casefold():
        raise UsageError("the password is the account's name")
    return _hasher().hash(password)


def valid_name(name: str) -> str:
    """An account's name as it is kept.

    Raises
    ------
    UsageError
        It is none.
    """
    if not NAME.fullmatch(name.lower()):
        raise UsageError(f"'{name}' is no name of an account: letters, digits and ._@- (64 at most), a letter or digit first")
    return name.lower()


def make_token(
    connection: Connection, found: Account, label: str, rights: Collection[str], *, expires_at: float | None, actor: str
) -> str:
    """Give an account a bearer token, and hand it out: only its digest is kept.

    Raises
    ------
    UsageError
        The account's role has not one of the rights.
    """
    missing = sorted(set(rights) - RIGHTS_OF_ROLE[found.role])
    if missing:
        raise UsageError(f"the role {found.role} has not the right to {', '.join(missing)}")
    secret = TOKEN_MARK + new_secret()
    accounts.add_token(connection, found, digest_of(secret), label, sorted(rights), expires_at=expires_at, actor=actor)
    return secret


def matches(known: str, password: str) -> bool:
    """Whether a password is the one of a hash."""
    try:
        return _hasher().verify(known, password[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False


def new_secret() -> str:
    """256 random bits, for a cookie or a token."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What of a secret is kept: SHA-256, hex. Enough for what nobody can guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
