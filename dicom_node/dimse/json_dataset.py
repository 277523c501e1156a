"""Data sets of messages as DICOM JSON (PS3.18 F) and back: strict in what is taken, as what is kept is read by others.

Texts come in by the data set's own character set and go out in the one asked for, where that has every character, else in UTF-8.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR

from dicom_node.dimse.character_sets import codecs
from dicom_node.dimse.contexts import IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.identifier import CHARACTER_SET, json_element
from dicom_node.pixels.elements import Element, NotReadable, read

MAX_DATA_SET: Final = 4 << 20
"""Longest data set taken, in bytes."""
MAX_ELEMENTS: Final = 50_000
MAX_DEPTH: Final = 16  # of sequences in sequences
_TEXTS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ONE: Final = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is a character of these
_PLAIN: Final = frozenset({"AE", "AS", "CS", "DA", "DT", "TM", "UI"})
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_TAG: Final = Struct("<HH")
_DELIMITERS: Final = frozenset((0x5C, 0x5E, 0x3D))
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")

Json = dict[str, Any]


class InvalidDataSet(ValueError):
    """The data set, or a value of it, is none; the text is an Error Comment and holds no value."""


def decode(data: bytes, transfer_syntax: str) -> tuple[Json, tuple[str, ...]]:
    """Read a data set; it, and the character sets that it names.

    Raises
    ------
    InvalidDataSet
        Bytes that are no data set, an attribute with the VR of another, a value that its VR cannot hold or its character set has not.
    """
    try:
        elements = read(data, transfer_syntax, MAX_DATA_SET, most=MAX_ELEMENTS)
    except (NotReadable, RecursionError):
        raise InvalidDataSet("the data set cannot be read") from None
    return _decoded(elements, _decoder(("",)), MAX_DEPTH), _character_sets(elements)


def encode(dataset: Mapping[str, Mapping[str, Any]], transfer_syntax: str, character_sets: Sequence[str] = ()) -> bytes:
    """Write a data set, sorted by tag, with its Specific Character Set where something is not ASCII."""
    explicit = transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN
    tags = sorted((int(name, 16), element) for name, element in dataset.items() if int(name, 16) != CHARACTER_SET)
    for codec in codecs(character_sets):
        try:
            parts = [(tag, json_element(tag, element, codec, explicit)) for tag, element in tags]
        except UnicodeEncodeError:
            continue
        if codec.name:
            named = {"vr": "CS", "Value": codec.name.split("\\")}
            parts.append((CHARACTER_SET, _character_set(named, explicit)))
        return b"".join(part for _, part in sorted(parts, key=lambda each: each[0]))
    raise AssertionError("UTF-8 has every character")


def _character_set(element: Mapping[str, Any], explicit: bool) -> bytes:
    value = "\\".join(element["Value"]).encode("ascii")
    value += b" " * (len(value) & 1)
    size = b"CS" + len(value).to_bytes(2, "little") if explicit else len(value).to_bytes(4, "little")
    return _TAG.pack(CHARACTER_SET >> 16, CHARACTER_SET & 0xFFFF) + size + value


_Decode = Callable[[bytes], str]


def _character_sets(elements: Sequence[Element]) -> tuple[str, ...]:
    for element in elements:
        if element.tag == CHARACTER_SET and isinstance(element.value, bytes | memoryview):
            return tuple(part.strip(" \0") for part in bytes(element.value).decode("ascii", "replace").split("\\"))
    return ()


def _decoder(character_sets: Sequence[str]) -> _Decode:
    if not python_encoding.keys() >= set(character_sets):
        raise InvalidDataSet("Specific Character Set is none that is known")
    encodings = convert_encodings(list(character_sets))
    if len(encodings) == 1 and encodings[0] != "iso8859":
        return lambda raw: raw.decode(encodings[0])
    if len(encodings) == 1:
        return lambda raw: raw.decode("ascii")
    return lambda raw: str(decode_bytes(raw, encodings, set(_DELIMITERS)))


def _decoded(elements: Sequence[Element], decode_text: _Decode, depth: int) -> Json:
    if depth < 0:
        raise InvalidDataSet("too many sequences in sequences")
    sets = _character_sets(elements)
    if sets:
        decode_text = _decoder(sets)
    return {f"{each.tag:08X}": _element(each, decode_text, depth) for each in elements if each.tag != CHARACTER_SET}


def _element(element: Element, decode_text: _Decode, depth: int) -> Json:
    vr, value = _vr(element), element.value
    if isinstance(value, list):
        items = [_decoded(item, decode_text, depth - 1) for item in value]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if not isinstance(value, bytes | memoryview):
        raise InvalidDataSet("pixel data has no place here")
    raw = bytes(value)
    try:
        return _value(raw, vr, decode_text)
    except (UnicodeError, ValueError, OverflowError, Warning):
        raise InvalidDataSet(f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) has a value that its VR cannot have") from None


def _vr(element: Element) -> str:
    """The VR, which has to be that of the dictionary where that knows the attribute."""
    vr, tag = element.vr.decode("ascii", "replace"), element.tag
    try:
        known = dictionary_VR(tag)
    except KeyError:
        return vr
    if vr == "UN" and not isinstance(element.value, list) and known != "SQ":
        return known if " " not in known else vr
    if vr != known and vr not in known.split(" or ") and not (known == "SQ" and isinstance(element.value, list)):
        raise InvalidDataSet(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has the VR {vr}; it is {known}")
    return vr


def _value(raw: bytes, vr: str, decode_text: _Decode) -> Json:
    if not raw:
        return {"vr": vr}
    if vr in _NUMBERS:
        return {"vr": vr, "Value": [_finite(number) for (number,) in Struct("<" + _NUMBERS[vr]).iter_unpack(raw)]}
    if vr == "AT":
        return {"vr": vr, "Value": [f"{group:04X}{number:04X}" for group, number in _TAG.iter_unpack(raw)]}
    if vr not in _TEXTS and vr not in _PLAIN and vr not in ("IS", "DS", "UR"):
        return {"vr": vr, "InlineBinary": b64encode(raw).decode("ascii")}
    text = (decode_text(raw) if vr in _TEXTS else raw.decode("ascii")).rstrip(" \0")
    if "\0" in text or "\ufffd" in text:
        raise ValueError
    parts = [text] if vr in _ONE else [part.strip() for part in text.split("\\")]
    values = [_single(part, vr) for part in parts] if any(parts) else []
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _single(part: str, vr: str) -> Any:
    if not part:
        return None
    if vr == "IS":
        return int(part)
    if vr == "DS":
        return _finite(float(part))
    if vr == "PN":
        return {group: text for group, text in zip(_GROUPS, part.split("=", 2)) if text}
    return part


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number


def strings(element: Mapping[str, Any]) -> Iterator[str]:
    """Each value of an attribute as text, as matching takes it; of a sequence none."""
    for value in element.get("Value") or ():
        if isinstance(value, Mapping):
            yield "=".join(str(value.get(group, "")) for group in _GROUPS).rstrip("=")
        else:
            yield "" if value is None else str(value)
