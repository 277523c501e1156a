"""C-FIND of workitems (PS3.4 CC.2.8): the worklist query of UPS Pull, Watch and Query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from dicom_node.dimse.association import Acceptor, Message
from dicom_node.dimse.errors import IdentifierTooLong
from dicom_node.dimse.identifier import LEVEL, MAX_IDENTIFIER, MAX_KEYS, RETRIEVE_AE_TITLE, TIMEZONE, RowEncoder
from dicom_node.dimse.json_dataset import InvalidDataSet, decode, strings
from dicom_node.dimse.message import encode_response, frame_command_split, frame_data_set
from dicom_node.dimse.services.find import (
    AT_ONCE,
    CANCELED,
    IDENTIFIER_DOES_NOT_MATCH,
    MORE_THAN_ANSWERED,
    NOT_AUTHORIZED,
    OUT_OF_RESOURCES,
    PENDING,
    SUCCESS,
)
from storage import workitem_values as values
from storage import workitems
from storage.database import Database
from storage.errors import StorageError
from storage.query import Column, Key
from storage.query_rows import element_text
from storage.workitem_values import Json
from storage.workitems import Workitem

log = structlog.get_logger()

MAX_VALUES: Final = 1000
_NOT_KEYS: Final = frozenset({LEVEL, RETRIEVE_AE_TITLE, TIMEZONE})


class WorkitemFind:
    """Answers C-FIND of workitems."""

    def __init__(self, database: Database, *, max_results: int) -> None:
        self._database = database
        self._max_results = max_results

    def handle(self, association: Acceptor, message: Message) -> None:
        if not (association.context.may_query or association.context.may_manage_workitems):
            association.respond(message, NOT_AUTHORIZED, "this AE title may not query here")
            return
        status, comment = self._find(association, message)
        if status != SUCCESS:
            log.info("find.ended", status=f"{status:04X}", comment=comment)
        association.respond(message, status, comment)

    def _find(self, association: Acceptor, message: Message) -> tuple[int, str]:
        if not message.command.has_data_set:
            return IDENTIFIER_DOES_NOT_MATCH, "the request has no identifier"
        try:
            keys, sets = keys_of(association.read_identifier(MAX_IDENTIFIER), message.context.transfer_syntax)
            with self._database.read() as connection:
                found = workitems.search(connection, keys, limit=self._max_results + 1)
        except IdentifierTooLong:
            return OUT_OF_RESOURCES, "the identifier is too long"
        except ValueError as error:
            return IDENTIFIER_DOES_NOT_MATCH, str(error)
        except StorageError as error:
            return OUT_OF_RESOURCES, error.comment
        return self._answer(association, message, keys, sets, found)

    def _answer(
        self, association: Acceptor, message: Message, keys: Sequence[Key], sets: Sequence[str], found: Sequence[Workitem]
    ) -> tuple[int, str]:
        shown = sorted(keys, key=lambda key: key.tag)
        encoder = RowEncoder([Column(key.tag, key.vr) for key in shown], [], sets, message.context.transfer_syntax)
        context_id, limit = message.context.id, association.context.max_pdu
        head = frame_command_split(context_id, encode_response(message.command, PENDING, has_data_set=True), limit)
        for start in range(0, min(len(found), self._max_results), AT_ONCE):
            if association.canceled(message):
                return CANCELED, ""
            group = found[start : min(start + AT_ONCE, self._max_results)]
            rows = [encoder.encode([_value(item.shown, key) for key in shown]) for item in group]
            association.connection.send(b"".join([head + frame_data_set(context_id, row, limit) for row in rows]))
        if len(found) > self._max_results:
            return MORE_THAN_ANSWERED, f"more than {self._max_results} matches: ask for less at once"
        return SUCCESS, ""


def _value(shown: Mapping[str, Any], key: Key) -> Any:
    return element_text(shown.get(f"{key.tag:08X}", {}), tuple(each for item in key.items for each in item))


def keys_of(identifier: bytes, transfer_syntax: str) -> tuple[list[Key], tuple[str, ...]]:
    """The keys of an identifier, SOP Instance UID among them, and its character sets.

    Raises
    ------
    InvalidDataSet
    """
    dataset, sets = decode(identifier, transfer_syntax)
    keys = matching_keys({name: element for name, element in dataset.items() if int(name, 16) not in _NOT_KEYS})
    if values.SOP_INSTANCE not in dataset:
        keys.append(Key(int(values.SOP_INSTANCE, 16), "UI"))
    return keys, sets


def matching_keys(dataset: Json) -> list[Key]:
    """The keys that a data set holds; raises InvalidDataSet where they are too many."""
    keys = [_key(name, element) for name, element in dataset.items()]
    if len(list(_all(keys))) > MAX_KEYS or sum(str(key.value).count("\\") + 1 for key in _all(keys)) > MAX_VALUES:
        raise InvalidDataSet("too many keys, or too many values")
    return keys


def _key(name: str, element: Mapping[str, Any]) -> Key:
    if element["vr"] == "SQ":
        items = element.get("Value") or []
        return Key(int(name, 16), "SQ", items=tuple(tuple(_key(each, item[each]) for each in item) for item in items))
    return Key(int(name, 16), element["vr"], "\\".join(strings(element)))


def _all(keys: Sequence[Key]) -> Iterator[Key]:
    for key in keys:
        yield key
        for item in key.items:
            yield from _all(item)
