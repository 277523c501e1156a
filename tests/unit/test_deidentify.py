"""De-identification: every line of PS3.15 Table E.1-1, and nothing of the original anywhere in what is written."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit

from dicom_node.datasets.confidentiality import Option, table
from dicom_node.datasets.deidentify import Deidentifier, Pseudonyms, Refused, traces, write
from tests.imaging import series, values_of
from tests.planar_bundle import radiograph
from tests.results_cases import unpacked

PLAIN = Deidentifier(Pseudonyms(b"secret of the tests, 32 bytes..."))
SECRET = "KEEPOUT"
VALUES: dict[str, Any] = {
    "DA": "20240517",
    "TM": "111213.5",
    "DT": "20240517111213",
    "AS": "061Y",
    "DS": "61.5",
    "IS": "61",
    "UI": "1.2.3.4.5.61",
    "AE": SECRET,
    "CS": SECRET,
    "PN": f"{SECRET}^Jane",
}
NUMBERS = ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT")
FIXED = {0x00080018: "1.2.3.4.5.61", 0x00080016: "1.2.840.10008.5.1.4.1.1.1"}


def value_for(vr: str) -> Any:
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID = VALUES["PN"], VALUES["UI"]
        return [item]
    if vr in NUMBERS:
        return 61
    return SECRET.encode() + b"\0" if vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN") else VALUES.get(vr, SECRET)


def oracle(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "standard" / "confidentiality_profile_attributes.json").read_text())
    return [row for row in rows if "WHERE" not in row["tag"]]


def cleaned(tag: int, vr: str, value: Any, deidentifier: Deidentifier = PLAIN) -> DataElement | None:
    image = radiograph()
    if tag not in (0x00080018,):
        image[tag] = DataElement(Tag(tag), vr, value, validation_mode=config.IGNORE)
    else:
        image.SOPInstanceUID = value
    return deidentifier(image).get(Tag(tag))


@pytest.mark.real_data
def test_our_table_is_the_standards(real_data: Path) -> None:
    assert {row["tag"].strip("()").replace(",", "").upper(): row["basicProfile"].rstrip("*") for row in oracle(real_data)} == {
        tag: line.code for tag, line in table().items()
    }


@pytest.mark.real_data
def test_every_attribute_of_the_table_is_handled_as_its_code_says(real_data: Path) -> None:
    wrong = []
    for row in oracle(real_data):
        text = row["tag"].strip("()").replace(",", "")
        tag = Tag(int(text.replace("X", "0"), 16) if "X" not in text else int(text.replace("XX,", "00").replace("X", "0"), 16))
        if tag.group < 8:
            continue  # of commands, the file meta and media directories: nothing of them is taken over
        vr = dictionary_VR(tag).split(" ")[0] if dictionary_has_tag(tag) else "UN"
        if tag.group in (0x5000, 0x6000):
            vr = "OW"
        if not as_coded(row["basicProfile"], vr, cleaned(int(tag), vr, value_for(vr))):
            wrong.append(row["tag"])
    assert wrong == []


def as_coded(code: str, vr: str, found: DataElement | None) -> bool:
    """Whether what came out is among what the code allows (PS3.15 Table E.1-1a)."""
    original = value_for(vr)
    said = "" if found is None else str(found.value)
    if SECRET in said or (isinstance(original, str) and said == original):
        return False
    empty = found is not None and not found.value and found.value != 0
    allowed = {"X": found is None, "Z": empty, "D": found is not None and not empty, "U": found is not None and "2.25." in said}
    if code == "Z":  # "... or a non-zero length value that may be a dummy value"
        return found is not None
    return any(allowed[each] for each in code.rstrip("*").split("/"))


def identified() -> Dataset:
    image = radiograph(PatientAge="093Y", PatientSex="F", StudyDate="20240517", StationName="STATION7", SoftwareVersions="9.9")
    image.PatientName, image.PatientID, image.AccessionNumber = "Doe^Jane=ドウ^ジェーン", "ID-4711", "ACC-0815"
    image.SpecificCharacterSet = "ISO_IR 192"
    image.add_new(0x00091001, "LO", "ID-4711")
    image.add_new(0x60003000, "OW", b"ID-4711\0")
    nested = Dataset()
    nested.PersonName, nested.ReferencedSOPInstanceUID, nested.ReferencedSOPClassUID = (
        "Roe^Richard",
        "1.2.3.9.9.9",
        "1.2.840.10008.5.1.4.1.1.1",
    )
    nested.add_new(0x00091001, "LO", "ID-4711")
    image.ReferencedImageSequence = [nested]
    return image


def written(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    write(dataset, buffer)
    return buffer.getvalue()


def test_nothing_of_the_patient_is_left_anywhere() -> None:
    original = identified()
    content = written(PLAIN(original))
    for value in (
        "Doe",
        "Jane",
        "ジェーン",
        "ID-4711",
        "ACC-0815",
        "20240517",
        "STATION7",
        "Richard",
        str(original.SOPInstanceUID),
        "1.2.3.9.9.9",
    ):
        assert value.encode() not in content, value
    again = dcmread(BytesIO(content))
    assert again.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in again.DeidentificationMethodCodeSequence] == ["113100"]
    assert again.LongitudinalTemporalInformationModified == "REMOVED"
    assert content[:128] == bytes(128)


def test_references_stay_consistent() -> None:
    first, second = identified(), identified()
    first.ReferencedImageSequence[0].ReferencedSOPInstanceUID = second.SOPInstanceUID
    one, two = PLAIN(first), PLAIN(second)
    assert one.ReferencedImageSequence[0].ReferencedSOPInstanceUID == two.SOPInstanceUID != second.SOPInstanceUID
    assert one.ReferencedImageSequence[0].ReferencedSOPClassUID == first.SOPClassUID
    assert one.PatientID == two.PatientID
    other = Deidentifier(Pseudonyms(b"another secret"))(identified())
    assert other.PatientID != one.PatientID


def test_patient_characteristics_dates_and_device_are_kept_where_asked() -> None:
    original = identified()
    kept = Deidentifier(PLAIN.pseudonyms, frozenset(Option))(original)
    assert (kept.PatientSex, kept.PatientAge) == ("F", "090Y")
    assert kept.StationName == "STATION7"
    assert kept.PatientBirthDate in ("", None)
    later = identified()
    later.StudyDate = "20240520"
    moved = Deidentifier(PLAIN.pseudonyms, frozenset({Option.SHIFT}))(later)
    assert kept.StudyDate < "20240517"
    assert np.datetime64(f"{moved.StudyDate[:4]}-{moved.StudyDate[4:6]}-{moved.StudyDate[6:]}") - np.datetime64(
        f"{kept.StudyDate[:4]}-{kept.StudyDate[4:6]}-{kept.StudyDate[6:]}"
    ) == np.timedelta64(3, "D")
    assert [item.CodeValue for item in kept.DeidentificationMethodCodeSequence] == ["113100", "113109", "113108", "113107"]
    assert kept.LongitudinalTemporalInformationModified == "MODIFIED"


def test_a_patient_without_an_id_is_one_subject_per_study() -> None:
    first, second = identified(), identified()
    first.PatientID = second.PatientID = ""
    assert PLAIN(first).PatientID != PLAIN(second).PatientID
    second.StudyInstanceUID = first.StudyInstanceUID
    assert PLAIN(first).PatientID == PLAIN(second).PatientID


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned into its pixels"),
        ({"Modality": "US"}, "likely for US"),
        ({"ProtocolName": "x", "ContrastBolusAgent": "x", "BodyPartExamined": "ID4711"}, "PatientID"),
        ({"Rows": 9999}, "shorter than its size"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not monochrome"),
        ({"SOPInstanceUID": ""}, "SOPInstanceUID"),
    ],
)
def test_what_cannot_be_made_safe_is_refused_without_its_value(attributes: dict[str, Any], said: str) -> None:
    image = identified()
    image.PatientID = "ID4711"
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
    with pytest.raises(Refused, match=said) as refused:
        PLAIN(image)
    assert "4711" not in str(refused.value)


def test_a_us_image_that_says_it_has_no_burned_in_text_is_taken() -> None:
    image = identified()
    image.Modality, image.BurnedInAnnotation = "US", "NO"
    assert PLAIN(image).Modality == "US"


def test_bytes_behind_the_pixels_do_not_come_along() -> None:
    image = identified()
    image.PixelData += b"Doe^Jane"
    assert b"Jane" not in written(PLAIN(image))


def test_malformed_values_are_left_out() -> None:
    image = identified()
    image.add(DataElement(0x00101010, "AS", "ninety", validation_mode=config.IGNORE))
    image.add(DataElement(0x00080020, "DA", "yesterday", validation_mode=config.IGNORE))
    kept = Deidentifier(PLAIN.pseudonyms, frozenset(Option))(image)
    assert kept.StudyDate == ""


@pytest.mark.real_data
def test_the_real_chest_film_byte_by_byte(real_data: Path) -> None:
    path = real_data / "singles" / "nih-rsna_CR_chest_1024_jpeg.dcm"
    original = dcmread(path)
    assert original.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    expected = original.pixel_array.copy()
    content = written(PLAIN(dcmread(path)))
    found = [(keyword, value) for keyword, value in traces(original) if value.encode() in content]
    assert found == []
    np.testing.assert_array_equal(dcmread(BytesIO(content)).pixel_array, expected)


@pytest.mark.real_data
def test_the_real_t1_byte_by_byte(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpacked(real_data / "mr-t1" / "studyforrest-t1w-384.tar.xz", tmp_path_factory.getbasetemp())
    for path in sorted(folder.rglob("*.dcm"))[::48]:
        original = dcmread(path)
        known = list(traces(original))
        content = written(PLAIN(dcmread(path)))
        assert len(known) >= 5
        assert [keyword for keyword, value in known if value.encode() in content] == []


def test_uids_of_the_standard_stay_and_others_never_do() -> None:
    (image,) = series(values_of(1))
    image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.123456"  # no registered one, whatever it looks like
    result = PLAIN(image)
    assert result.SOPInstanceUID.startswith("2.25.")
    assert result.SOPClassUID == image.SOPClassUID


def test_every_tag_of_the_table_has_a_known_code() -> None:
    assert {line.code for line in table().values()} <= {"X", "Z", "D", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U"}
    assert keyword_for_tag(0x00100010) == "PatientName"
