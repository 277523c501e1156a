"""Text of answers in the character set that was asked for (PS3.5 6.1, PS3.3 C.12.1.1.2), where that has every character; else in UTF-8."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding

UTF8: Final = "ISO_IR 192"
# Character sets without code extensions, by their defined terms. GB18030 and GBK are not among them: a backslash may be the second byte
# of their characters, and readers take it for the end of a value.
_SINGLE: Final = {
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 166": "iso8859_11",
    "ISO_IR 203": "iso8859_15",
    UTF8: "utf-8",
}
# With code extensions: what may be the first, and what may follow, as far as pydicom writes it; not ISO 2022 IR 58 and 159.
_BYTE: Final = {"ISO 2022 IR 6", "ISO 2022 IR 13", *(name.replace("ISO_IR ", "ISO 2022 IR ") for name in _SINGLE)} & python_encoding.keys()
_FIRST: Final = _BYTE | {"", "ISO_IR 13"}
_OTHERS: Final = _BYTE | {"ISO 2022 IR 87", "ISO 2022 IR 149"}
_DEFAULT: Final = "iso8859"  # pydicom's word for the default repertoire, which is ASCII
_KATAKANA: Final = "shift_jis"  # its word for ISO IR 13, which has half-width katakana and no kanji
_DELIMITERS: Final = frozenset((0x5C, 0x5E, 0x3D))
_KANJI: Final = "iso2022_jp"
_PARTS: Final = re.compile(r"([\\^=\r\n\f\t])")  # behind each of them the first character set is in force again
_LONGEST: Final = 1024  # characters; a longer text goes out as UTF-8, its way through code extensions would take too long


class Codec(NamedTuple):
    """How a text is written.

    Attributes
    ----------
    name : the Specific Character Set (0008,0005), "" for the default
    encode : raises UnicodeEncodeError for a character that it has not
    """

    name: str
    encode: Callable[[str], bytes]


ASCII: Final = Codec("", lambda text: text.encode("ascii"))


def codecs(character_sets: Sequence[str]) -> list[Codec]:
    """The ways in which to write a text, the first that can being the one: ASCII, the character set asked for, UTF-8.

    Of one with code extensions, first what it is without them.
    """
    found = [ASCII]
    first = character_sets[0].replace("ISO 2022 IR ", "ISO_IR ") if character_sets else ""
    if first in _SINGLE:
        found.append(_plain(first))
    if len(character_sets) > 1 or first == "ISO_IR 13":
        found += _extended(character_sets)
    return [*found, _plain(UTF8)]


def _plain(name: str) -> Codec:
    python = _SINGLE[name]
    return Codec(name, lambda text: text.encode(python))


def _extended(character_sets: Sequence[str]) -> list[Codec]:
    if character_sets[0] not in _FIRST or not _OTHERS.issuperset(character_sets[1:]):
        return []
    encodings = tuple(convert_encodings(list(character_sets)))
    return [Codec("\\".join(character_sets), lambda text: _encode(text, encodings))]


def _encode(text: str, encodings: tuple[str, ...]) -> bytes:
    if text.isascii():
        return text.encode("ascii")
    if len(text) > _LONGEST:
        raise UnicodeEncodeError(encodings[0], text, 0, len(text), "too long")
    data = b"".join(_encode_part(part, encodings) for part in _PARTS.split(text))
    if decode_bytes(data, encodings, set(_DELIMITERS)) != text:  # nothing goes out that would be read as something else
        raise UnicodeEncodeError(encodings[0], text, 0, len(text), "does not come back as it is")
    return data


def _encode_part(part: str, encodings: tuple[str, ...]) -> bytes:
    """Write what stands between two delimiters, all of it in one of the character sets."""
    if part.isascii():
        return part.encode("ascii")
    for encoding in encodings:
        if not all(_has(encoding, character) for character in part):
            continue
        if encoding == encodings[0]:
            return part.encode(encoding)
        if encoding != _KATAKANA:
            return encode_string(part, (encodings[0], encoding))
    raise UnicodeEncodeError(encodings[0], part, 0, len(part), "not in these character sets")


@lru_cache(maxsize=4096)
def _has(encoding: str, character: str) -> bool:
    if character.isascii():
        return True
    if encoding == _DEFAULT or (encoding == _KATAKANA and not "\uff61" <= character <= "\uff9f"):
        return False
    try:
        data = character.encode(encoding)
        return encoding != _KANJI or data.startswith(b"\x1b$")  # what Python writes as JIS X 0201 is not of ISO IR 87
    except UnicodeEncodeError:
        return False
