"""``user add | list | password | role | disable | enable | sessions | signout | token | tokens | revoke``."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from pathlib import Path
from typing import Any

from dicom_node.cli import output
from dicom_node.cli.common import command, configuration, group, index_of, who, with_json
from dicom_node.config_values import duration
from dicom_node.errors import CommandFailed, UsageError


def add(commands: Any) -> None:
    from storage.accounts import ROLES

    user = group(commands, "user", "accounts for the pages and the API, and the tokens of programs")
    made = command(
        user, "add", "make an account; asks for its password", example="dicom-node user add ada --role radiologist --modality CT"
    )
    made.add_argument("name")
    made.add_argument("--role", required=True, choices=ROLES)
    _with_limits(made)
    _with_password(made)
    made.set_defaults(run=_add)
    listing = command(user, "list", "list the accounts")
    with_json(listing)
    listing.set_defaults(run=_list)
    password = command(user, "password", "give an account another password; its sessions end, its tokens stay (user revoke)")
    password.add_argument("name")
    _with_password(password)
    password.set_defaults(run=_password)
    role = command(user, "role", "change what an account may do and see; its sessions end")
    role.add_argument("name")
    role.add_argument("--role", required=True, choices=ROLES)
    _with_limits(role)
    role.add_argument("--no-limits", action="store_true", help="all studies from now on (else, without limits here, as before)")
    role.set_defaults(run=_role)
    for name, text in (
        ("disable", "let an account in no more; its sessions end and its tokens are taken away"),
        ("enable", "let it in again"),
    ):
        parser = command(user, name, text)
        parser.add_argument("name")
        parser.set_defaults(run=_disable if name == "disable" else _enable)
    sessions = command(user, "sessions", "list who is signed in")
    with_json(sessions)
    sessions.set_defaults(run=_sessions)
    leave = command(user, "signout", "end all sessions of an account")
    leave.add_argument("name")
    leave.set_defaults(run=_sign_out)
    _tokens(user)


def _tokens(user: Any) -> None:
    from dicom_node.accounts import RIGHTS_OF_ROLE

    token = command(
        user, "token", "make a bearer token for a program; it is shown once", example="dicom-node user token ada --label backup"
    )
    token.add_argument("name")
    token.add_argument("--label", required=True, help="what it is for")
    token.add_argument("--right", action="append", choices=sorted(RIGHTS_OF_ROLE["administrator"]), help="default: read")
    token.add_argument("--for", dest="lasting", metavar="TIME", help="how long it is good, e.g. 90d (default: until it is removed)")
    token.set_defaults(run=_token)
    listing = command(user, "tokens", "list the tokens that were made")
    with_json(listing)
    listing.set_defaults(run=_list_tokens)
    remove = command(user, "revoke", "take a token away, by its number")
    remove.add_argument("token", type=int)
    remove.set_defaults(run=_remove_token)


def _with_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", action="append", default=[], metavar="AE", help="only studies from this calling AE title (AB*: any that begins so)"
    )
    parser.add_argument("--modality", action="append", default=[], help="only studies with a series of this modality")


def _with_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", metavar="FILE", help="read the password from the first line of a file (-: standard input)")


def _read_password(arguments: argparse.Namespace) -> str:
    if arguments.password_file is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask for the password; give --password-file FILE")
        first = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != first:
            raise UsageError("the two passwords differ")
        return first
    try:
        text = sys.stdin.read() if arguments.password_file == "-" else Path(arguments.password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--password-file {arguments.password_file}: {error}") from error
    return text.split("\n", 1)[0].rstrip("\r")


def _limits(arguments: argparse.Namespace) -> Any:
    from storage.visibility import Limits

    return Limits(tuple(arguments.source), tuple(modality.upper() for modality in arguments.modality))


def _add(arguments: argparse.Namespace) -> None:
    from dicom_node.accounts import hashed, valid_name
    from dicom_node.node import prepare
    from storage import accounts

    name = valid_name(arguments.name)
    config = configuration(arguments)
    prepare(config)  # the first account may be made before the node was ever started
    with index_of(config) as database:
        with database.read() as connection:
            if accounts.find(connection, name) is not None:
                raise CommandFailed(f"there is an account '{name}' already; see: dicom-node user password")
        kept = hashed(name, _read_password(arguments))
        with database.begin() as connection:
            accounts.add(connection, name, kept, arguments.role, _limits(arguments), actor=who())
    output.line(f"account {name} ({arguments.role}) is made; it signs in at http://{config.web.host}:{config.web.port}/sign-in")


def _list(arguments: argparse.Namespace) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = accounts.every(connection)
    if arguments.json:
        output.data([
            {"name": each.name, "role": each.role, "sources": each.limits.sources, "modalities": each.limits.modalities,
             "created_at": each.created_at, "signed_in_at": each.signed_in_at, "disabled_at": each.disabled_at}
            for each in found
        ])  # fmt: skip
        return
    rows = [
        (each.name, each.role, ", ".join(each.limits.sources), ", ".join(each.limits.modalities), output.moment(each.signed_in_at),
         "disabled" if each.disabled_at else "")
        for each in found
    ]  # fmt: skip
    output.table(("account", "role", "sources", "modalities", "last signed in", ""), rows)


def _change(arguments: argparse.Namespace, what: str, **values: Any) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.begin() as connection:
        accounts.change(connection, accounts.get(connection, arguments.name), what, actor=who(), **values)


def _password(arguments: argparse.Namespace) -> None:
    from dicom_node.accounts import hashed

    _change(arguments, "password_changed", password=hashed(arguments.name, _read_password(arguments)))
    output.line(f"account {arguments.name} has another password, and its sessions have ended")


def _role(arguments: argparse.Namespace) -> None:
    limits = _limits(arguments)
    if limits and arguments.no_limits:
        raise UsageError("--no-limits goes with neither --source nor --modality")
    given = limits or arguments.no_limits
    limited = {"sources": list(limits.sources), "modalities": list(limits.modalities)} if given else {}
    _change(arguments, "role_changed", role=arguments.role, **limited)
    seen = "sees all studies" if arguments.no_limits else "sees what was named" if limits else "sees what it saw before"
    output.line(f"account {arguments.name} is {arguments.role} now, {seen}, and its sessions have ended")


def _disable(arguments: argparse.Namespace) -> None:
    _change(arguments, "disabled", disabled_at=time.time())
    output.line(f"account {arguments.name} is disabled: its sessions have ended and its tokens are taken away")


def _enable(arguments: argparse.Namespace) -> None:
    _change(arguments, "enabled", disabled_at=None)
    output.line(f"account {arguments.name} may sign in again")


def _sessions(arguments: argparse.Namespace) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = accounts.sessions(connection)
    if arguments.json:
        output.data(
            [
                {"account": each.account.name, "address": each.address, "opened_at": each.opened_at, "seen_at": each.seen_at}
                for each in found
            ]
        )
        return
    rows = [(each.account.name, each.address, output.moment(each.opened_at), output.moment(each.seen_at)) for each in found]
    output.table(("account", "from", "signed in", "last seen"), rows)


def _sign_out(arguments: argparse.Namespace) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.begin() as connection:
        ended = accounts.close_sessions(connection, accounts.get(connection, arguments.name), actor=who())
    output.line(f"{ended} sessions of {arguments.name} have ended")


def _token(arguments: argparse.Namespace) -> None:
    from dicom_node.accounts import READ, make_token
    from storage import accounts

    rights = arguments.right or [READ]
    try:
        until = None if arguments.lasting is None else time.time() + duration(arguments.lasting)
    except ValueError as error:
        raise UsageError(f"--for {arguments.lasting}: {error}") from error
    with index_of(configuration(arguments)) as database, database.begin() as connection:
        found = accounts.get(connection, arguments.name)
        secret = make_token(connection, found, arguments.label, rights, expires_at=until, actor=who())
    output.line(secret)
    output.note(f"it may {', '.join(rights)}; keep it now, it is not shown again")


def _list_tokens(arguments: argparse.Namespace) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.read() as connection:
        found = accounts.tokens(connection)
    if arguments.json:
        output.data([
            {"token": each.pk, "account": each.account.name, "label": each.label, "rights": each.rights, "created_at": each.created_at,
             "expires_at": each.expires_at}
            for each in found
        ])  # fmt: skip
        return
    rows = [(each.pk, each.account.name, each.label, ", ".join(each.rights), output.moment(each.expires_at)) for each in found]
    output.table(("token", "account", "for", "may", "good until"), rows)


def _remove_token(arguments: argparse.Namespace) -> None:
    from storage import accounts

    with index_of(configuration(arguments)) as database, database.begin() as connection:
        accounts.remove_token(connection, arguments.token, actor=who())
    output.line(f"token {arguments.token} is taken away")
