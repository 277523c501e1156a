"""Names in every character set arrive in our objects as the source has them."""

from __future__ import annotations

import dataclasses
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_data_element

from dicom_node.results.charset import decode, text_element
from dicom_node.results.context import EncodedObject
from dicom_node.results.encode import encode
from tests.results_cases import MODEL, context, headers, prediction, read, segment

# Specific Character Set, the bytes of a name in it, and the name.
NAMES = [
    ((), b"Doe^Jane", "Doe^Jane"),
    (("ISO_IR 100",), "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    (("ISO_IR 127",), "قباني^لنزار".encode("iso8859-6"), "قباني^لنزار"),
    (("ISO_IR 138",), "שרון^דבורה".encode("iso8859-8"), "שרון^דבורה"),
    (("ISO_IR 144",), "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
    (("ISO_IR 192",), "王^小東=Wang".encode(), "王^小東=Wang"),
    (("GB18030",), "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
    (
        ("", "ISO 2022 IR 87"),
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        ("", "ISO 2022 IR 149"),
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    (("", "ISO 2022 IR 58"), b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab", "Zhang^XiaoDong=张^小东"),
]
TERMS = [" ".join(t for t in terms if t) or "none" for terms, _, _ in NAMES]


def with_name(terms: tuple[str, ...], name: bytes, *, touched: bool) -> list[Dataset]:
    """Headers whose name has these bytes; `touched`, as after somebody looked at them."""
    made: list[Dataset] = []
    for header in headers():
        body = DicomIO(BytesIO())
        body.is_implicit_VR, body.is_little_endian = False, True
        header.PatientName = None
        del header.PatientName
        header.add(text_element(0x00100010, "PN", name.decode("latin-1")))
        header.add(text_element(0x00080005, "CS", "\\".join(terms)))
        for tag in sorted(header.keys()):
            write_data_element(body, header[tag], "iso8859")
        body.seek(0)
        again = dcmread(body, force=True)
        if touched:
            str(again.PatientName)
        made.append(again)
    return made


def raw_name(item: EncodedObject) -> bytes:
    raw = read(item).get_item(0x00100010)
    return bytes(raw.value).rstrip(b" ")


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize(("terms", "name", "text"), NAMES, ids=TERMS)
def test_a_name_is_taken_over_byte_by_byte(terms: tuple[str, ...], name: bytes, text: str, touched: bool) -> None:
    sources = with_name(terms, name, touched=touched)
    for item in encode(prediction(sources), sources, context()):
        assert raw_name(item) == name
        assert read(item).get("SpecificCharacterSet") == read_terms(terms)


@pytest.mark.parametrize(("terms", "name", "text"), NAMES, ids=TERMS)
def test_a_label_beyond_ascii_makes_the_object_utf8(terms: tuple[str, ...], name: bytes, text: str) -> None:
    sources = with_name(terms, name, touched=False)
    labelled = dataclasses.replace(segment(prediction(sources).segments[0].mask), label="Großhirn")
    for item in encode(prediction(sources, segments=[labelled]), sources, context()):
        dataset = read(item)
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert raw_name(item) == text.encode()
        if item.kind == "SEG":
            assert dataset.SegmentSequence[0].SegmentLabel == "Großhirn"


def test_an_unknown_character_set_is_carried_on_with_its_bytes() -> None:
    with pytest.warns(UserWarning, match="ISO_IR 999"):  # pydicom, on reading
        sources = with_name(("ISO_IR 999",), b"\xf0\xf1^\xf2", touched=False)
    for item in encode(prediction(sources), sources, context()):
        assert b"\xf0\xf1^\xf2" in item.dataset_bytes
        assert b"ISO_IR 999" in item.dataset_bytes


def test_bytes_that_are_no_text_do_not_fail_a_run() -> None:
    sources = with_name(("ISO_IR 192",), b"\xff\xfe^\x81", touched=False)
    assert encode(prediction(sources), sources, context())
    model = dataclasses.replace(MODEL, manufacturer="Hersteller für Köpfe")
    assert encode(prediction(sources, model=model), sources, context())
    assert decode(b"\xff", ("ISO_IR 192",))


@pytest.mark.real_data
def test_real_files_in_many_character_sets(real_data: Path) -> None:
    seen = set()
    for path in sorted((real_data / "charsets").glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        if "PatientName" not in header:
            continue
        name = bytes(header.get_item(0x00100010).value).rstrip(b" ")
        terms = header.get("SpecificCharacterSet")
        sources = with_name((terms,) if isinstance(terms, str) else tuple(terms), name, touched=False)
        for item in encode(prediction(sources), sources, context()):
            assert raw_name(item) == name.rstrip(b"="), path.name  # empty component groups at the end say nothing
        seen.add(path.name)
    assert len(seen) >= 12


def read_terms(terms: tuple[str, ...]) -> object:
    if not terms:
        return None
    return terms[0] if len(terms) == 1 else list(terms)
