"""Accounts, sessions and tokens as rows. What is secret comes in as a digest; what changes an account ends its sessions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from storage import audit
from storage.errors import NotFound
from storage.schema import account, api_token, web_session
from storage.visibility import Limits

ROLES: Final = ("viewer", "radiologist", "operator", "administrator")


@dataclass(frozen=True)
class Account:
    """Somebody who may sign in. ``password`` is an encoded Argon2id hash, and empty in lists."""

    pk: int
    name: str
    role: str
    limits: Limits
    language: str | None
    theme: str | None
    created_at: float
    changed_at: float
    disabled_at: float | None
    signed_in_at: float | None
    password: str = ""


@dataclass(frozen=True)
class Session:
    """A browser that is signed in."""

    pk: int
    account: Account
    csrf: str
    address: str
    opened_at: float
    seen_at: float


@dataclass(frozen=True)
class Token:
    """A bearer token of an account."""

    pk: int
    account: Account
    label: str
    rights: tuple[str, ...]
    created_at: float
    expires_at: float | None


def _account(row: Row[Any], *, password: bool = False) -> Account:
    return Account(
        row.account_pk, row.name, row.role, Limits(tuple(row.sources), tuple(row.modalities)), row.language, row.theme,
        row.created_at, row.changed_at, row.disabled_at, row.signed_in_at, row.password if password else "",
    )  # fmt: skip


_COLUMNS = [account.c.pk.label("account_pk"), *(column for column in account.c if column.name != "pk")]


def exist(connection: Connection) -> bool:
    """Whether there is an account at all."""
    return bool(connection.scalar(select(exists(select(account.c.pk)))))


def every(connection: Connection) -> list[Account]:
    """All accounts by name."""
    return [_account(row) for row in connection.execute(select(*_COLUMNS).order_by(account.c.name))]


def find(connection: Connection, name: str) -> Account | None:
    """An account by its name, with its password's hash."""
    row = connection.execute(select(*_COLUMNS).where(account.c.name == name.lower())).one_or_none()
    return None if row is None else _account(row, password=True)


def get(connection: Connection, name: str) -> Account:
    """An account by its name.

    Raises
    ------
    NotFound
        There is none.
    """
    found = find(connection, name)
    if found is None:
        raise NotFound(f"there is no account '{name}'; see: dicom-node user list")
    return found


def of_pk(connection: Connection, pk: int) -> Account:
    """An account by its key, with its password's hash.

    Raises
    ------
    NotFound
        There is none.
    """
    row = connection.execute(select(*_COLUMNS).where(account.c.pk == pk)).one_or_none()
    if row is None:
        raise NotFound("there is no such account")
    return _account(row, password=True)


def is_last_administrator(connection: Connection, found: Account) -> bool:
    """Whether nobody else could administer if this account could not; whoever else could stays so until the transaction ends."""
    others = select(account.c.pk).where(account.c.role == "administrator", account.c.disabled_at.is_(None), account.c.pk != found.pk)
    another = connection.scalar(others.order_by(account.c.pk).limit(1).with_for_update())
    return found.role == "administrator" and found.disabled_at is None and another is None


def add(connection: Connection, name: str, password: str, role: str, limits: Limits, *, actor: str, now: float | None = None) -> Account:
    """Make an account; ``password`` is its encoded hash.

    Raises
    ------
    ValueError
        The name is taken.
    """
    at = time.time() if now is None else now
    values = {
        "name": name.lower(),
        "password": password,
        "role": role,
        "sources": list(limits.sources),
        "modalities": list(limits.modalities),
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(account).values(**values, created_at=at, changed_at=at))
    except IntegrityError:
        raise ValueError(f"there is an account '{name}' already") from None
    audit.record(connection, "account.added", actor=actor, detail={"account": name.lower(), "role": role}, at=at)
    return get(connection, name)


def change(
    connection: Connection, found: Account, what: str, *, actor: str, now: float | None = None, keep: str = "", **values: Any
) -> None:
    """Set columns of an account (``what``: for the audit trail) and end its sessions, but for that with the digest ``keep``."""
    at = time.time() if now is None else now
    connection.execute(update(account).where(account.c.pk == found.pk).values(**values, changed_at=at))
    connection.execute(delete(web_session).where(web_session.c.account_pk == found.pk, web_session.c.digest != keep))
    if values.get("disabled_at") is not None:
        connection.execute(delete(api_token).where(api_token.c.account_pk == found.pk))
    shown = {key: value for key, value in values.items() if key != "password"}
    audit.record(connection, f"account.{what}", actor=actor, detail={"account": found.name, **shown}, at=at)


def prefer(connection: Connection, pk: int, **values: str) -> None:
    """Keep language or theme."""
    connection.execute(update(account).where(account.c.pk == pk).values(**values))


# --- sessions


def open_session(connection: Connection, found: Account, digest: str, csrf: str, *, address: str, now: float) -> None:
    """Sign somebody in."""
    row = {"digest": digest, "account_pk": found.pk, "csrf": csrf, "address": address, "opened_at": now, "seen_at": now}
    connection.execute(insert(web_session).values(**row))
    connection.execute(update(account).where(account.c.pk == found.pk).values(signed_in_at=now))
    audit.record(connection, "account.signed_in", actor=found.name, detail={"address": address}, at=now)


def session(connection: Connection, digest: str) -> Session | None:
    """The session of a cookie's digest, whose account is not disabled."""
    own = [web_session.c.pk.label("session_pk"), web_session.c.csrf, web_session.c.address, web_session.c.opened_at, web_session.c.seen_at]
    query = select(*_COLUMNS, *own).join_from(web_session, account).where(web_session.c.digest == digest, account.c.disabled_at.is_(None))
    row = connection.execute(query).one_or_none()
    return None if row is None else Session(row.session_pk, _account(row), row.csrf, row.address, row.opened_at, row.seen_at)


def sessions(connection: Connection, of: Account | None = None) -> list[Session]:
    """All sessions, or those of an account, the newest first."""
    own = [web_session.c.pk.label("session_pk"), web_session.c.csrf, web_session.c.address, web_session.c.opened_at, web_session.c.seen_at]
    query = select(*_COLUMNS, *own).join_from(web_session, account).order_by(web_session.c.seen_at.desc())
    rows = connection.execute(query if of is None else query.where(account.c.pk == of.pk))
    return [Session(row.session_pk, _account(row), "", row.address, row.opened_at, row.seen_at) for row in rows]


def touch(connection: Connection, pk: int, now: float) -> None:
    """Note that a session was used."""
    connection.execute(update(web_session).where(web_session.c.pk == pk).values(seen_at=now))


def close_session(connection: Connection, digest: str) -> None:
    """Sign out."""
    connection.execute(delete(web_session).where(web_session.c.digest == digest))


def close_sessions(connection: Connection, found: Account, *, actor: str, keep: str = "") -> int:
    """End all sessions of an account, but for that with the digest ``keep``; how many there were."""
    ended = connection.execute(delete(web_session).where(web_session.c.account_pk == found.pk, web_session.c.digest != keep)).rowcount
    audit.record(connection, "account.signed_out", actor=actor, detail={"account": found.name, "sessions": ended})
    return ended


def expire(connection: Connection, *, idle_before: float, opened_before: float) -> int:
    """Remove the sessions that nobody used since ``idle_before``, or that are older than ``opened_before``."""
    old = (web_session.c.seen_at < idle_before) | (web_session.c.opened_at < opened_before)
    return connection.execute(delete(web_session).where(old)).rowcount


# --- tokens


def add_token(
    connection: Connection, found: Account, digest: str, label: str, rights: Sequence[str], *, expires_at: float | None, actor: str
) -> None:
    """Give an account a bearer token."""
    now = time.time()
    row = {"digest": digest, "account_pk": found.pk, "label": label, "rights": list(rights), "created_at": now, "expires_at": expires_at}
    connection.execute(insert(api_token).values(**row))
    detail = {"account": found.name, "label": label, "rights": list(rights)}
    audit.record(connection, "token.added", actor=actor, detail=detail, at=now)


_TOKEN = [
    api_token.c.pk.label("token_pk"),
    api_token.c.label,
    api_token.c.rights,
    api_token.c.created_at.label("made_at"),
    api_token.c.expires_at,
]


def token(connection: Connection, digest: str, now: float) -> Token | None:
    """The token of a digest, where it has not expired and its account is not disabled."""
    query = select(*_COLUMNS, *_TOKEN).join_from(api_token, account).where(api_token.c.digest == digest, account.c.disabled_at.is_(None))
    row = connection.execute(query).one_or_none()
    return None if row is None or (row.expires_at is not None and row.expires_at <= now) else _token(row)


def tokens(connection: Connection, of: Account | None = None) -> list[Token]:
    """All tokens, or those of an account, by account."""
    query = select(*_COLUMNS, *_TOKEN).join_from(api_token, account).order_by(account.c.name, api_token.c.pk)
    return [_token(row) for row in connection.execute(query if of is None else query.where(account.c.pk == of.pk))]


def remove_token(connection: Connection, pk: int, *, actor: str, of: Account | None = None) -> None:
    """Take a token away; ``of``: only one of this account.

    Raises
    ------
    NotFound
        There is none of that number.
    """
    which = delete(api_token).where(api_token.c.pk == pk)
    if connection.execute(which if of is None else which.where(api_token.c.account_pk == of.pk)).rowcount == 0:
        raise NotFound(f"there is no token {pk}; see: dicom-node user tokens")
    audit.record(connection, "token.removed", actor=actor, detail={"token": pk})


def _token(row: Row[Any]) -> Token:
    return Token(row.token_pk, _account(row), row.label, tuple(row.rights), row.made_at, row.expires_at)
