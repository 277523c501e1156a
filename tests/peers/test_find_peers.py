"""DCMTK's and Orthanc's clients of C-FIND, and ours against Orthanc."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import insert

from storage.header_json import build_missing
from storage.schema import patient, study
from tests.imaging import as_file
from tests.node import StepNode, bright_series, command, peer, running, send, settings, uid_of
from tests.peers.orthanc import Orthanc

CLIENTS = "".join(f'[[peer]]\nname = "{title.lower()}"\nae_title = "{title}"\n' for title in ("FINDSCU", "ORTHANC"))
IMAGES = bright_series(3, PatientName="Müller^Jörg", PatientID="P7", SpecificCharacterSet="ISO_IR 100", StudyDate="20250607")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StepNode]:
    with running(settings(tmp_path / "node", more=CLIENTS)) as node:
        assert set(send(node, IMAGES, tmp_path / "sent")) == {0}
        assert set(send(node, bright_series(2, PatientName="Other^One", PatientID="P8"), tmp_path / "other")) == {0}
        yield node


@pytest.mark.peer("findscu")
@pytest.mark.parametrize("root", ["-S", "-P"])
def test_findscu(root: str, node: StepNode) -> None:
    keys = ["QueryRetrieveLevel=STUDY", "PatientID=P7", "PatientName", "StudyInstanceUID", "ModalitiesInStudy"]
    said = findscu(node, *(part for key in keys for part in ("-k", key)), root=root)
    assert said.count("Find Response: ") == 1
    assert uid_of(IMAGES) in said
    assert "Success" in said


def findscu(node: StepNode, *arguments: str, root: str = "-S") -> str:
    called = ["/usr/bin/findscu", "-v", root, "-aec", "NODE", *arguments, "127.0.0.1", str(node.port)]
    done = subprocess.run(called, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, said
    return said


@pytest.mark.peer("findscu")
def test_findscu_looks_for_breasts_by_side_and_structure(node: StepNode, tmp_path: Path) -> None:
    for side, structure in (("L", "76752008"), ("R", "76752008"), ("L", "39607008")):
        code = code_item(structure)
        images = bright_series(1, ImageLaterality=side, PrimaryAnatomicStructureSequence=[code], AccessionNumber=f"{side}{structure}")
        assert set(send(node, images, tmp_path / f"{side}{structure}")) == {0}
    while build_missing(node.node.archive):
        continue
    keys = ["QueryRetrieveLevel=IMAGE", "SOPInstanceUID", "AccessionNumber", "ImageLaterality=L"]
    keys += ["PrimaryAnatomicStructureSequence[0].CodeValue=76752008", "PrimaryAnatomicStructureSequence[0].CodingSchemeDesignator"]
    said = findscu(node, *(part for key in keys for part in ("-k", key)))
    assert said.count("Find Response: ") == 1
    assert "[L76752008 ]" in said or "[L76752008]" in said


@pytest.mark.peer("findscu")
@pytest.mark.parametrize(
    ("level", "sequence", "inside"),
    [
        ("IMAGE", "SegmentSequence", "SegmentedPropertyTypeCodeSequence[0].CodeValue"),
        ("IMAGE", "QuantityDefinitionSequence", "ConceptCodeSequence[0].CodeValue"),
        ("SERIES", "SeriesDescriptionCodeSequence", "CodeValue"),
    ],
)
def test_findscu_looks_for_what_results_are_of(node: StepNode, tmp_path: Path, level: str, sequence: str, inside: str) -> None:
    """The keys that AIR added for archives, matched inside their sequences."""
    found = {}
    for code in ("12738006", "39607008"):
        item = code_item(code)
        for name in reversed(inside.split(".")[:-1]):
            outer = Dataset()
            setattr(outer, name.removesuffix("[0]"), [item])
            item = outer
        attributes: dict[str, Any] = {sequence: [item]}
        images = bright_series(1, **attributes)
        assert set(send(node, images, tmp_path / code)) == {0}
        found[code] = str(images[0].SOPInstanceUID if level == "IMAGE" else images[0].SeriesInstanceUID)
    while build_missing(node.node.archive):
        continue
    unique = "SOPInstanceUID" if level == "IMAGE" else "SeriesInstanceUID"
    keys = [f"QueryRetrieveLevel={level}", unique, f"{sequence}[0].{inside}=12738006"]
    said = findscu(node, *(part for key in keys for part in ("-k", key)))
    assert (said.count("Find Response: "), found["12738006"] in said, found["39607008"] in said) == (1, True, False)


def code_item(value: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", "Structure"
    return code


@pytest.mark.peer("findscu")
def test_findscu_cancels(tmp_path: Path) -> None:
    count = 60_000  # more than the buffers of both sockets hold
    with running(settings(tmp_path / "node", more=CLIENTS + f"[query]\nmax_results = {count}\n")) as node:
        with node.node.database.begin() as connection:
            person = connection.execute(insert(patient).values(patient_id="MANY").returning(patient.c.pk)).scalar_one()
            same = {"patient_pk": person, "first_received_at": 0.0, "last_received_at": 0.0, "study_description": "x" * 60}
            connection.execute(insert(study), [{"study_uid": f"2.25.{number + 1}", **same} for number in range(count)])
        said = findscu(node, "--cancel", "3", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "StudyDescription")
    assert "Received Final Find Response (Cancel" in said
    assert 3 <= said.count("Find Response: ") < count


@pytest.mark.peer("Orthanc")
def test_orthanc_queries_the_node(node: StepNode, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.add_modality("node", "NODE", node.port)
        keys = {"PatientName": "muller*", "StudyDate": "20250601-20250630"}
        query = orthanc.post("/modalities/node/query", {"Level": "Study", "Query": keys})
        (answer,) = orthanc.get(f"/queries/{query['ID']}/answers?expand&simplify")
        assert answer["StudyInstanceUID"] == uid_of(IMAGES)
        assert answer["PatientName"] == "Müller^Jörg"


@pytest.mark.peer("Orthanc")
def test_our_client_queries_orthanc(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc") as orthanc:
        for image in IMAGES:
            orthanc.upload(as_file(image).getvalue())
        orthanc.add_modality("us", "NODE", 104)
        config = settings(tmp_path / "node", more=peer("pacs", orthanc.dicom_port, title=orthanc.ae_title))
        found = command(config, "find", "pacs", "-k", "PatientName=Müller*", "--json")
        assert found.returncode == 0, found.stderr
        (match,) = json.loads(found.stdout)
        assert match["0020000D"]["Value"] == [uid_of(IMAGES)]
        lines = command(config, "find", "pacs", "--level", "image", "-k", f"StudyInstanceUID={uid_of(IMAGES)}")
        assert len(lines.stdout.splitlines()) == 3
        wrong = command(config, "find", "pacs", "-k", "PatientNane=X")
        assert wrong.returncode == 2
        assert "PatientNane" in wrong.stderr
