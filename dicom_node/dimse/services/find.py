"""C-FIND (PS3.4 C.4.1): the index answers page by page, and a C-CANCEL ends it between matches, or while SQLite looks for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from dicom_node.dimse.association import UNRECOGNIZED_OPERATION, Acceptor, Message
from dicom_node.dimse.contexts import LEVELS
from dicom_node.dimse.errors import IdentifierTooLong
from dicom_node.dimse.identifier import LEVEL, MAX_IDENTIFIER, RETRIEVE_AE_TITLE, IdentifierRefused, Request, RowEncoder, parse
from dicom_node.dimse.message import C_FIND_RQ, encode_response, frame_command_split, frame_data_set
from storage.attributes import UNIQUE_KEYS, Level
from storage.database import Database
from storage.errors import StorageError
from storage.query import Key, Plan, Query, QueryError, plan, stream

log = structlog.get_logger()

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_WITHOUT_SOME_KEYS: Final = 0xFF01
CANCELED: Final = 0xFE00
MORE_THAN_ANSWERED: Final = 0xB001
NOT_AUTHORIZED: Final = 0x0124
OUT_OF_RESOURCES: Final = 0xA700
IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
AT_ONCE: Final = 32
"""Matches sent in one piece; a C-CANCEL is looked for between pieces."""

COMBINED, FUZZY, TIMEZONES = 1, 2, 3
"""Bytes of the extended negotiation (PS3.4 C.5.1.1). The first, relational queries, changes nothing: they are always answered."""


class FindService:
    """Answers C-FIND.

    Parameters
    ----------
    retrieve_ae
        The AE title at which what is found can be retrieved.
    max_results
        After so many matches the answer ends with a warning.
    """

    def __init__(self, database: Database, retrieve_ae: str, *, max_results: int = 10_000) -> None:
        self._database = database
        self._retrieve_ae = retrieve_ae
        self._max_results = max_results

    def handle(self, association: Acceptor, message: Message) -> None:
        if message.command.field != C_FIND_RQ:
            association.respond(message, UNRECOGNIZED_OPERATION)
            return
        if not association.context.may_query:
            association.respond(message, NOT_AUTHORIZED, "this AE title may not query here")
            return
        status, comment = self._find(association, message)
        if status != SUCCESS:
            log.info("find.ended", status=f"{status:04X}", comment=comment)
        association.respond(message, status, comment)

    def _find(self, association: Acceptor, message: Message) -> tuple[int, str]:
        try:
            request = parse(
                association.read_identifier(MAX_IDENTIFIER), message.context.transfer_syntax, LEVELS[message.context.abstract_syntax]
            )
            planned = self._plan(association, message, request)
        except IdentifierTooLong:
            return OUT_OF_RESOURCES, "the identifier is too long"
        except (IdentifierRefused, QueryError) as error:
            return IDENTIFIER_DOES_NOT_MATCH, str(error)
        try:
            return self._answer(association, message, request, planned)
        except QueryError as error:
            return OUT_OF_RESOURCES, str(error)
        except StorageError as error:
            return OUT_OF_RESOURCES, error.comment

    def _plan(self, association: Acceptor, message: Message, request: Request) -> Plan:
        agreed = association.context.extended.get(message.context.abstract_syntax, b"")
        keys = request.keys
        if UNIQUE_KEYS[request.level] not in request.tags:
            keys = (*keys, Key(UNIQUE_KEYS[request.level], "UI"))
        return plan(
            Query(
                request.level,
                keys,
                fuzzy=_has(agreed, FUZZY),
                limit=self._max_results + 1,
                timezone=request.timezone if _has(agreed, TIMEZONES) else "",
                combined=_has(agreed, COMBINED),
            )
        )

    def _answer(self, association: Acceptor, message: Message, request: Request, planned: Plan) -> tuple[int, str]:
        constants = [(LEVEL, "CS", str(request.level))]
        if request.level is not Level.PATIENT:
            constants.append((RETRIEVE_AE_TITLE, "AE", self._retrieve_ae))
        encoder = RowEncoder(planned.columns, constants, request.character_sets, message.context.transfer_syntax)
        context_id, limit = message.context.id, association.context.max_pdu
        status = PENDING_WITHOUT_SOME_KEYS if planned.unsupported else PENDING
        head = frame_command_split(context_id, encode_response(message.command, status, has_data_set=True), limit)

        def look() -> None:
            if association.canceled(message):
                raise _Canceled

        rows = stream(self._database, planned, check=look)
        sent = 0
        try:
            for group in _groups(itertools.islice(rows, self._max_results)):
                look()
                association.connection.send(b"".join([head + frame_data_set(context_id, encoder.encode(row), limit) for row in group]))
                sent += len(group)
            if sent == self._max_results and next(rows, None) is not None:
                return MORE_THAN_ANSWERED, f"more than {sent} matches: ask for less at once"
        except _Canceled:
            return CANCELED, ""
        finally:
            rows.close()
        return SUCCESS, ""


class _Canceled(Exception):
    """A C-CANCEL has come in."""


def _groups(rows: Iterator[Sequence[object]]) -> Iterator[list[Sequence[object]]]:
    while group := list(itertools.islice(rows, AT_ONCE)):
        yield group


def _has(agreed: bytes, number: int) -> bool:
    return len(agreed) > number and agreed[number] == 1
