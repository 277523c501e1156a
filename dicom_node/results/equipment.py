"""Who made the object: General Equipment, Contributing Equipment Sequence, the SR's observer.

The equipment of a result is the model release, identified by its Device UID: all objects of a series
come from one release, so series-level attributes never disagree. Node and scanner are named beside it
in the Contributing Equipment Sequence (0018,A001).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from models.findings import ModelIdentity

from .codes import ACQUISITION_EQUIPMENT, PROCESSING_EQUIPMENT
from .context import ResultContext

NODE_MANUFACTURER = "dicom-node"
ACQUISITION_KEYWORDS = (
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)


def general_equipment(model: ModelIdentity) -> dict[str, Any]:
    """highdicom's arguments for the (Enhanced) General Equipment Module."""
    return {
        "manufacturer": model.manufacturer[:64],
        "manufacturer_model_name": model.name[:64],
        "software_versions": model.version[:64],
        "device_serial_number": model.digest[:64],
    }


def contributing_equipment(model: ModelIdentity, context: ResultContext, when: datetime, acquisition: Dataset) -> list[Dataset]:
    """Items for the algorithm, the node and the source's scanner, in that order.

    `acquisition` holds the scanner's General Equipment attributes, ready to be written.
    """
    algorithm = _item(PROCESSING_EQUIPMENT, "Algorithm that made the findings", when)
    algorithm.Manufacturer = model.manufacturer[:64]
    algorithm.ManufacturerModelName = model.name[:64]
    algorithm.SoftwareVersions = model.version[:64]
    algorithm.DeviceSerialNumber = model.digest[:64]
    algorithm.DeviceUID = context.device_uid
    node = _item(PROCESSING_EQUIPMENT, "Node that ran the algorithm and encoded its findings", when)
    node.Manufacturer = NODE_MANUFACTURER
    node.ManufacturerModelName = NODE_MANUFACTURER
    node.SoftwareVersions = context.software_version[:64]
    if context.station:
        node.StationName = context.station[:16]
    items = [algorithm, node]
    if acquisition.get("Manufacturer"):
        scanner = _item(ACQUISITION_EQUIPMENT, "Acquisition equipment of the source images", None)
        scanner.update(acquisition)
        items.append(scanner)
    return items


def _item(purpose: CodedConcept, description: str, when: datetime | None) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.ContributionDescription = description
    if when is not None:
        item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S.%f%z")
    return item
