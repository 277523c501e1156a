"""Single 2-D images: radiographs and the like, which have pixels and no place in the patient.

What a pixel measures depends on where (PS3.3 section 10.7): in the plane of the patient, in that of the
detector, which a projection enlarges, or nobody says. The difference goes with every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydicom import Dataset

from models.errors import GeometryRefused, Refusal
from models.findings import Code
from models.geometry import FloatArray


class PixelPlane(StrEnum):
    """Where the size of a pixel holds."""

    PATIENT = "patient"
    DETECTOR = "detector"
    UNSTATED = "unstated"


#: How a measurement was calibrated, as its method says it; nothing where lengths hold in the patient.
METHODS = {
    PixelPlane.PATIENT: None,
    PixelPlane.DETECTOR: Code("113941", "DCM", "In Detector Plane"),
    PixelPlane.UNSTATED: Code("calibration-not-stated", "99DICOMNODE", "Pixel Spacing without stated calibration"),
}


@dataclass(frozen=True)
class PixelSize:
    """Millimetres between rows and between columns, and the plane in which they hold."""

    between_rows: float
    between_columns: float
    plane: PixelPlane

    @property
    def area(self) -> float:
        """Square millimetres of a pixel."""
        return self.between_rows * self.between_columns


def pixel_size(header: Dataset) -> PixelSize | None:
    """Size of a pixel by the rules of PS3.3 section 10.7.1.3; None where no attribute gives one.

    Pixel Spacing holds in the patient where the image has a place in the patient, where a calibration is
    named, and where it differs from Imager Pixel Spacing; where both are equal, or only Imager Pixel Spacing
    or Nominal Scanned Pixel Spacing (of a digitised film) is there, it holds at the detector.
    """
    spacing = _pair(header, "PixelSpacing")
    detector = _pair(header, "ImagerPixelSpacing") or _pair(header, "NominalScannedPixelSpacing")
    if spacing is None:
        return None if detector is None else PixelSize(*detector, PixelPlane.DETECTOR)
    if header.get("ImagePositionPatient") or header.get("PixelSpacingCalibrationType"):
        return PixelSize(*spacing, PixelPlane.PATIENT)
    if detector is None:
        return PixelSize(*spacing, PixelPlane.UNSTATED)
    same = np.allclose(spacing, detector, rtol=1e-4)
    return PixelSize(*spacing, PixelPlane.DETECTOR if same else PixelPlane.PATIENT)


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        rows, columns = (float(part) for part in header.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (rows, columns) if 0 < rows < 1e4 and 0 < columns < 1e4 else None


def planar_affine(size: PixelSize | None) -> FloatArray:
    """4x4: (column, row) to millimetres from the first pixel; pixels count as millimetres where no size is known.

    No direction in the patient is meant: a radiograph's rows and columns are all there is.
    """
    rows, columns = (size.between_rows, size.between_columns) if size else (1.0, 1.0)
    return np.diag([columns, rows, 1.0, 1.0])


def the_image(datasets: Sequence[Dataset], views: Sequence[str] = ()) -> Dataset:
    """The one image to read: of several, the one whose View Position (0018,5101) is among ``views``.

    Raises
    ------
    GeometryRefused
        No image, several, or one with several frames.
    """
    fitting = [d for d in datasets if not views or _view(d) in ("", *views)]
    if not fitting:
        found = ", ".join(sorted({_view(d) for d in datasets}))
        raise GeometryRefused(Refusal.WRONG_VIEW, f"The view is {found}; the model takes {' or '.join(views)}.")
    named = [d for d in fitting if _view(d)]
    chosen = named if views and len(named) == 1 else fitting
    if len(chosen) > 1:
        raise GeometryRefused(Refusal.SEVERAL_IMAGES, f"{len(chosen)} images of the series fit; the model takes one 2-D image.")
    image = chosen[0]
    frames = str(image.get("NumberOfFrames") or 1)
    if frames != "1":
        raise GeometryRefused(Refusal.UNSUPPORTED_MULTIFRAME, f"The image has {frames} frames; the model takes one 2-D image.")
    if "SOPInstanceUID" not in image:
        raise GeometryRefused(Refusal.UNREADABLE, "An image has no SOP Instance UID.")
    return image


def _view(header: Dataset) -> str:
    return str(header.get("ViewPosition") or "").strip().upper()
