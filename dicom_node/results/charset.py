"""Text of the source in our objects (PS3.3 C.12.1.1.2, PS3.5 section 6.1).

Two ways, chosen per object:

*Kept* - everything we say ourselves is ASCII, which every character set of the standard contains.
The source's text is then taken over byte by byte under its own Specific Character Set, whatever it
is and whether or not anything here can decode it. On the way it travels as Latin-1 (a bijection
between bytes and characters), and the data set is written as Latin-1.

*Converted* - a label or a name of ours needs more than ASCII: the source's text is decoded and the
object is written in ISO_IR 192 (UTF-8).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import config
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_data_element

UTF8 = "ISO_IR 192"
_GB2312 = "ISO 2022 IR 58"
_GB2312_ESCAPE = b"\x1b$)A"


@dataclass(frozen=True)
class TextPolicy:
    """How one object's text is carried: `terms` is its Specific Character Set, empty for none."""

    terms: tuple[str, ...]
    converts: bool

    @property
    def written_as(self) -> str:
        """The pydicom encoding that the data set is written with."""
        return "utf8" if self.converts else "iso8859"

    def take(self, raw: bytes, source_terms: tuple[str, ...]) -> str:
        """The source's bytes as the string that, written, gives the right bytes."""
        return decode(raw, source_terms) if self.converts else raw.decode("latin-1")


def policy_for(source_terms: tuple[str, ...], own_text: str) -> TextPolicy:
    """Keep the source's character set, unless what we add does not fit into every one."""
    if own_text.isascii():
        return TextPolicy(source_terms, converts=False)
    return TextPolicy((UTF8,), converts=True)


def terms_of(header: Dataset) -> tuple[str, ...]:
    """Specific Character Set (0008,0005) of a data set as it stands; () where absent or empty."""
    value = header.get("SpecificCharacterSet")
    if value is None or value == "":
        return ()
    return (str(value),) if isinstance(value, str) else tuple(str(term) for term in value)


def encodings_of(terms: tuple[str, ...]) -> list[str]:
    """Python encodings for the terms, unknown ones left out; Latin-1 where none remains."""
    known = [term for term in terms if term in python_encoding]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(convert_encodings(known or ["ISO_IR 6"]))


def decode(raw: bytes, terms: tuple[str, ...]) -> str:
    """Decode text bytes; never fails, what cannot be decoded becomes U+FFFD."""
    if _GB2312 in terms:
        # GB 2312 sits in G1 after its escape sequence, beside ASCII in G0: without the escapes it is EUC-CN.
        return raw.replace(_GB2312_ESCAPE, b"").decode("gb2312", errors="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text: str = decode_bytes(raw, encodings_of(terms), {0x0A, 0x0C, 0x0D, 0x09, 0x5C, 0x5E, 0x3D})
    return text


def raw_value(element: Any, terms: tuple[str, ...]) -> bytes:
    """The value bytes of a text element, without padding, as the source has them."""
    if element.is_raw:
        return bytes(element.value or b"").rstrip(b" \0")
    buffer = BytesIO()
    target = DicomIO(buffer)
    target.is_implicit_VR, target.is_little_endian = True, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_data_element(target, element, encodings_of(terms))
    return buffer.getvalue()[8:].rstrip(b" \0")


def text_element(tag: int, vr: str, value: str) -> DataElement:
    """A text element whose value is taken as it is, without a check or a warning that quotes it."""
    return DataElement(tag, vr, value, validation_mode=config.IGNORE)


def encode_dataset(dataset: Dataset, policy: TextPolicy) -> bytes:
    """The data set in Explicit VR Little Endian, Specific Character Set first, without file meta."""
    if "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet
    buffer = BytesIO()
    target = DicomIO(buffer)
    target.is_implicit_VR, target.is_little_endian = False, True
    if policy.terms:
        write_data_element(target, text_element(0x00080005, "CS", "\\".join(policy.terms)), "iso8859")
    for tag in sorted(dataset.keys()):
        write_data_element(target, dataset[tag], policy.written_as)
    return buffer.getvalue()
