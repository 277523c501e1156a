"""Identifiers of C-FIND: what is encoded is what pydicom reads, in every syntax and character set; what is refused names no value."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.identifier import MAX_KEYS, IdentifierRefused, RowEncoder, parse
from storage.attributes import Level
from storage.query import Column

LEVEL = b"\x08\x00\x52\x00\x06\x00\x00\x00STUDY "
SYNTAXES = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN]
LEVELS = ("STUDY", "SERIES", "IMAGE")
COLUMNS = (
    Column(0x00080016, "UI"),
    Column(0x00080061, "CS"),
    Column(0x00081030, "LO"),
    Column(0x00100010, "PN"),
    Column(0x00201208, "IS"),
    Column(0x00280010, "US"),
    Column(0x00280030, "DS"),
    Column(0x00401400, "LT"),
    Column(0x0040A30A, "DS"),
)
# PS3.5 H.3.1 and I.2
YAMADA = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
HONG = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="\\^="), max_size=16)


def encoded(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, syntax == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(buffer, ds)
    return buffer.getvalue()


def read(data: bytes, syntax: str) -> Dataset:
    return read_dataset(BytesIO(data), is_implicit_VR=syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)


@given(
    st.sampled_from(SYNTAXES),
    st.sampled_from(
        [
            "",
            "ISO_IR 100",
            "ISO_IR 192",
            "ISO_IR 144",
            "GB18030",
            "ISO 2022 IR 87",
            "\\ISO 2022 IR 87",
            "\\ISO 2022 IR 149\\ISO 2022 IR 58",
            "ISO 2022 IR 100\\ISO 2022 IR 126",
            "NONSENSE",
        ]
    ),
    TEXT,
    TEXT,
    st.integers(0, 65535),
    st.one_of(st.none(), st.integers(0, 10**6)),
)
def test_pydicom_reads_what_is_encoded(syntax: str, character_set: str, name: str, text: str, rows: int, count: int | None) -> None:
    row = ("1.2.3", "CT\\MR", text, name, count, rows, "0.5\\0.25", text * 20, "")
    encoder = RowEncoder(COLUMNS, [(0x00080052, "CS", "STUDY"), (0x00080054, "AE", "NODE")], character_set.split("\\"), syntax)
    data = encoder.encode(row)
    ds = read(data, syntax)
    assert len(data) % 2 == 0
    assert [element.tag for element in ds] == sorted(element.tag for element in ds)
    assert (ds.QueryRetrieveLevel, ds.RetrieveAETitle, ds.SOPClassUID) == ("STUDY", "NODE", "1.2.3")
    assert list(ds.ModalitiesInStudy) == ["CT", "MR"]
    assert (str(ds.StudyDescription), str(ds.PatientName)) == (text, name)
    assert (ds.get(0x00401400).value or "") == text * 20
    assert ds.Rows == rows
    assert ds.NumberOfStudyRelatedInstances == count
    assert list(map(float, ds.PixelSpacing)) == [0.5, 0.25]
    if name.isascii() and text.isascii():
        assert "SpecificCharacterSet" not in ds


@pytest.mark.parametrize(
    ("character_sets", "name", "expected", "stated"),
    [
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", YAMADA, "\\ISO 2022 IR 87"),
        ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", HONG, "\\ISO 2022 IR 149"),
        ("ISO 2022 IR 100\\ISO 2022 IR 126", "Müller^Ωμ", b"M\xfcller^\x1b-F\xd9\xec", "ISO 2022 IR 100\\ISO 2022 IR 126"),
        ("ISO 2022 IR 100\\ISO 2022 IR 126", "Müller^Änne", b"M\xfcller^\xc4nne", "ISO_IR 100"),
        ("\\ISO 2022 IR 87", "Müller", "Müller".encode(), "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "홍^길동", "홍^길동".encode(), "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "Doe^Jane", b"Doe^Jane", ""),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ISO_IR 13"),
        ("ISO_IR 13", "山田", "山田".encode(), "ISO_IR 192"),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ=山田", b"\xd4\xcf\xc0\xde=\x1b$B;3ED\x1b(J", "ISO 2022 IR 13\\ISO 2022 IR 87"),
        ("\\ISO 2022 IR 58", "王", "王".encode(), "ISO_IR 192"),
        ("\\ISO 2022 IR 999", "王", "王".encode(), "ISO_IR 192"),
        ("ISO 2022 IR 87", "山田", "山田".encode(), "ISO_IR 192"),
        ("GB18030", "王^小东", "王^小东".encode(), "ISO_IR 192"),
        ("ISO 2022 IR 87\\NONSENSE", "山田", "山田".encode(), "ISO_IR 192"),
    ],
)
def test_names_go_out_with_the_code_extensions_of_the_request(character_sets: str, name: str, expected: bytes, stated: str) -> None:
    encoder = RowEncoder([Column(0x00100010, "PN")], [], character_sets.split("\\"), EXPLICIT_VR_LITTLE_ENDIAN)
    data = encoder.encode((name,))
    ds = read(data, EXPLICIT_VR_LITTLE_ENDIAN)
    assert data.endswith(expected + b" " * (len(expected) % 2))
    assert str(ds.PatientName) == name
    sets = ds.get("SpecificCharacterSet", "")
    assert (sets if isinstance(sets, str) else "\\".join(sets)) == stated


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_sequences_are_written_from_json(syntax: str) -> None:
    items = [{"00080100": {"vr": "SH", "Value": ["T-1"]}, "00080104": {"vr": "LO", "Value": ["Kopf é"]}}]
    encoder = RowEncoder([Column(0x00081032, "SQ"), Column(0x00100010, "PN")], [], ["ISO_IR 100"], syntax)
    ds = read(encoder.encode((items, "A^B")), syntax)
    assert ds.SpecificCharacterSet == "ISO_IR 100"
    assert ds.ProcedureCodeSequence[0].CodeMeaning == "Kopf é"
    assert len(read(encoder.encode((None, "A^B")), syntax).ProcedureCodeSequence) == 0


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_keys_are_read(syntax: str) -> None:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.QueryRetrieveLevel, ds.PatientName, ds.StudyInstanceUID, ds.Rows = "STUDY", "Mül*", ["1.2", "1.3"], 512
    ds.TimezoneOffsetFromUTC = "+0100"
    item = Dataset()
    item.CodeValue = "X"
    ds.ProcedureCodeSequence = [item]
    request = parse(encoded(ds, syntax), syntax, LEVELS)
    found: dict[int, Any] = {key.tag: key for key in request.keys}
    assert request.level is Level.STUDY
    assert (request.timezone, request.character_sets) == ("+0100", ("ISO_IR 100",))
    assert found[0x00100010].value == "Mül*"
    assert found[0x0020000D].value == "1.2\\1.3"
    assert found[0x00280010].value == "512"
    assert found[0x00081032].items[0][0].value == "X"


@pytest.mark.parametrize(
    "identifier",
    [
        b"",
        b"\x08\x00\x52\x00\xff\xff\xff\x7fSTUDY ",
        LEVEL + b"".join(b"\x09\x00" + n.to_bytes(2, "little") + b"\0\0\0\0" for n in range(1, MAX_KEYS + 2)),
        b"\x08\x00\x32\x10\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x32\x10\xff\xff\xff\xff" * 20_000,
    ],
    ids=["nothing", "lying length", "too many keys", "nested 20,000 deep"],
)
def test_what_is_no_identifier_is_refused(identifier: bytes) -> None:
    with pytest.raises(IdentifierRefused):
        parse(identifier, IMPLICIT_VR_LITTLE_ENDIAN, LEVELS)


def test_what_no_element_can_hold_is_left_out_and_the_match_goes_on() -> None:
    columns = [Column(0x00080050, "SH"), Column(0x00280010, "US"), Column(0x00280011, "US")]
    ds = read(RowEncoder(columns, [], [""], EXPLICIT_VR_LITTLE_ENDIAN).encode(("x" * 70_000, 70_000, 7)), EXPLICIT_VR_LITTLE_ENDIAN)
    assert (ds.AccessionNumber, ds.Rows, ds.Columns) == ("", None, 7)


def test_a_flood_of_empty_elements_is_refused_before_it_is_read() -> None:
    flood = LEVEL + b"\x09\x00\x01\x00\0\0\0\0" * 130_000
    tracemalloc.start()
    try:
        with pytest.raises(IdentifierRefused):
            parse(flood, IMPLICIT_VR_LITTLE_ENDIAN, LEVELS)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


SETS = ["", "ISO_IR 13", "ISO 2022 IR 6", "ISO 2022 IR 13", "ISO 2022 IR 100", "ISO 2022 IR 126", "ISO 2022 IR 138", "ISO 2022 IR 166"]
FURTHER = [*SETS[2:], "ISO 2022 IR 87", "ISO 2022 IR 149", "ISO 2022 IR 159", "ISO 2022 IR 58"]


@given(
    st.sampled_from(SETS),
    st.lists(st.sampled_from(FURTHER), max_size=3),
    st.text("aéЯΩ山ﾔ홍王丂מש€×§ท¥‾-", min_size=1, max_size=8).filter(lambda text: text.strip() == text),
)
def test_no_mixture_of_character_sets_is_read_as_something_else(first: str, further: list[str], name: str) -> None:
    ds = read(
        RowEncoder([Column(0x00100010, "PN")], [], [first, *further], EXPLICIT_VR_LITTLE_ENDIAN).encode((name,)), EXPLICIT_VR_LITTLE_ENDIAN
    )
    assert str(ds.PatientName) == name
