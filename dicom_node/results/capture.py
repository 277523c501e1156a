"""Pictures of the findings as Secondary Captures (PS3.3 A.8.1 and A.8.5; SOP classes 1.2.840.10008.5.1.4.1.1.7 and .7.4).

Single frames of the key images, or one multi-frame object of every image that shows a finding. The legend is burnt in and names the
finding, never the patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from models.findings import Prediction

from .context import ResultContext
from .display import shown, spacing_of
from .equipment import general_equipment
from .key_images import key_planes, planes_with_findings, title_of
from .picture import captioned, legend, overlaid, scale_for
from .sources import Sources
from .uids import instance_uid, series_number, series_uid

SINGLE, MULTIFRAME = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4"
LEAST = 512  # rows and columns of a key image; small sources are enlarged
MOST_FRAMES = 128  # of the multi-frame object; of more images every so manyth is shown, which the legend says


class Captures:
    """The captures of one run.

    Parameters
    ----------
    images
        (planes, rows, columns) of values after the modality transformation, in volume order.
    headers
        Source headers in volume order; one for a multi-frame source.
    """

    def __init__(
        self, prediction: Prediction, sources: Sources, headers: Sequence[Dataset], context: ResultContext, images: NDArray[Any]
    ) -> None:
        self._prediction = prediction
        self._sources = sources
        self._headers = headers
        self._context = context
        self._images = images
        self._legend = legend(prediction)

    def singles(self) -> list[Dataset]:
        """One object for each key image."""
        made = []
        for number, plane in enumerate(key_planes(self._prediction), 1):
            dataset = self._dataset("SC", number, [plane], self._frame(plane, LEAST)[None])
            dataset.SOPClassUID = SINGLE
            made.append(dataset)
        return made

    def multiframe(self, limit: int = 0) -> list[Dataset]:
        """One object of all images with a finding, or with a limit several that follow one another."""
        planes = planes_with_findings(self._prediction)
        planes = planes[:: -(-len(planes) // MOST_FRAMES)]
        kind = f"SC_MULTIFRAME/{limit}" if limit and len(planes) > limit else "SC_MULTIFRAME"
        made = []
        for number, start in enumerate(range(0, len(planes), limit or len(planes)), 1):
            part = planes[start : start + limit] if limit else planes
            dataset = self._dataset(kind, number, part, np.stack([self._frame(plane, LEAST // 2) for plane in part]))
            dataset.SOPClassUID = MULTIFRAME
            dataset.NumberOfFrames = len(part)
            if len(part) > 1:
                dataset.PageNumberVector = list(range(1, len(part) + 1))
                dataset.FrameIncrementPointer = 0x00182001
            made.append(dataset)
        return made

    def _frame(self, plane: int, least: int) -> NDArray[np.uint8]:
        sources = self._sources
        header = self._headers[0 if sources.multiframe else plane]
        frame = sources.frame_numbers[plane] if sources.multiframe else None
        grey = shown(self._images[plane], header, frame)
        shape = scale_for(grey.shape[0], grey.shape[1], spacing_of(header) or (1.0, 1.0), least)
        place = f"image {plane + 1} of {len(self._images)} of series {sources.series_number or '-'}"
        return captioned(overlaid(grey, self._prediction, plane, shape), self._legend, place)

    def _dataset(self, kind: str, number: int, planes: Sequence[int], pixels: NDArray[np.uint8]) -> Dataset:
        model, context, sources = self._prediction.model, self._context, self._sources
        dataset = Dataset()
        dataset.SOPInstanceUID = instance_uid(context.run_key, f"{kind} {number}")
        dataset.Modality, dataset.ConversionType = "OT", "WSD"
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.SeriesInstanceUID = series_uid(context.study_uid, model.digest, kind)
        dataset.SeriesNumber = series_number(sources.series_number, model.digest, kind)
        dataset.SeriesDescription = f"{title_of(model)} FOR REVIEW"[:64]
        dataset.InstanceNumber = context.instance_number * 1000 + number
        dataset.PatientOrientation = dataset.Laterality = None
        dataset.BurnedInAnnotation = "NO"  # words, but none that tell who it is (PS3.3 C.7.6.1)
        dataset.DerivationDescription = f"findings of {model.name} {model.version} drawn in, shown with the window of the source"[:1024]
        dataset.DerivationCodeSequence = [_code(codes.DCM.SegmentationImageDerivation)]
        dataset.SourceImageSequence = list(self._references(planes))
        for keyword, value in general_equipment(model).items():
            setattr(dataset, _EQUIPMENT[keyword], value)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.Rows, dataset.Columns = pixels.shape[1:3]
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.LossyImageCompression = "01" if str(sources.first.get("LossyImageCompression") or "") == "01" else "00"
        data = pixels.tobytes()
        dataset.add_new(0x7FE00010, "OB", data + b"\0" * (len(data) % 2))
        return dataset

    def _references(self, planes: Sequence[int]) -> Iterator[Dataset]:
        instances = self._sources.instances()
        places = [0] if self._sources.multiframe else planes
        for plane in places:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instances[plane]
            if self._sources.multiframe:
                item.ReferencedFrameNumber = [self._sources.frame_numbers[each] for each in planes]
            item.PurposeOfReferenceCodeSequence = [_code(codes.DCM.SourceImageForImageProcessingOperation)]
            yield item


_EQUIPMENT = {
    "manufacturer": "Manufacturer",
    "manufacturer_model_name": "ManufacturerModelName",
    "software_versions": "SoftwareVersions",
    "device_serial_number": "DeviceSerialNumber",
}


def _code(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
