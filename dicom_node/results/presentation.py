"""Outlines as a Grayscale Softcopy Presentation State (PS3.3 A.33.1; SOP class 1.2.840.10008.5.1.4.1.1.11.1).

One graphic layer a segment, in its colour; closed polylines along the edges of its pixels on every image that shows it, and on each of
these images that the result is for review. Modality LUT and window are those of the source: a presentation state replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from highdicom.color import CIELabColor
from highdicom.content import ModalityLUTTransformation, ReferencedImageSequence
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from highdicom.pr.enum import TextJustificationValues
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from models.findings import Prediction, Segment

from .context import ResultContext
from .display import spacing_of, window_of
from .equipment import general_equipment
from .key_images import FOR_REVIEW, said_of, title_of
from .outlines import outlines
from .segmentation import color_of
from .sources import Sources
from .uids import instance_uid, series_number, series_uid, tracking_uid

KIND = "PR"
MOST_OUTLINES = 100  # of a segment in one image, those with the most corners: a viewer draws every one each time it paints
MOST_POINTS = 8000  # of a polyline: with an explicit VR its value is shorter than 64 KiB
_BLUE = (90, 160, 230)


def build(prediction: Prediction, sources: Sources, headers: Sequence[Dataset], context: ResultContext) -> Dataset | None:
    """The presentation state but for what `encode` adds to every object; None where there is no segment to outline."""
    segments = [segment for segment in prediction.segments if not segment.empty]
    if not segments:
        return None
    model = prediction.model
    images = _images(sources, headers)
    planes = sorted({int(plane) for segment in segments for plane in np.flatnonzero(segment.mask.any(axis=(1, 2)))})
    layers = [
        GraphicLayer(f"FINDING {order}", order, segment.label[:64], CIELabColor.from_rgb(*color_of(segment)))
        for order, segment in enumerate(segments, 1)
    ]
    words = GraphicLayer("FOR REVIEW", len(layers) + 1, "Not verified by a person", CIELabColor.from_rgb(*_BLUE))
    annotations = [_mark(prediction, segments, words, *_place(images, sources, plane), plane) for plane in planes]
    for segment, layer in zip(segments, layers, strict=True):
        uid = tracking_uid(context.study_uid, context.bundle, segment.tracking_id)
        for plane in np.flatnonzero(segment.mask.any(axis=(1, 2))):
            image, frame = _place(images, sources, int(plane))
            annotations.append(GraphicAnnotation([image], layer, frame, graphic_objects=list(_polylines(segment, int(plane), uid))))
    referenced = [images[0]] if sources.multiframe else [images[plane] for plane in planes]
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=referenced,
        series_instance_uid=series_uid(context.study_uid, model.digest, KIND),
        series_number=series_number(sources.series_number, model.digest, KIND),
        sop_instance_uid=instance_uid(context.run_key, KIND),
        instance_number=context.instance_number,
        content_label="FOR_REVIEW",
        content_description=f"{title_of(model)}: {', '.join(s.label for s in segments)}"[:64],
        graphic_annotations=annotations,
        graphic_layers=[*layers, words],
        modality_lut_transformation=_modality_lut(sources, headers[0]),
        voi_lut_transformations=_windows(sources, headers, referenced, planes) or None,
        **general_equipment(model),
    )
    state.ContentCreatorName = ""  # type 2: no person made this
    state.Laterality = None
    spacing = spacing_of(headers[0])
    for area in state.DisplayedAreaSelectionSequence if spacing else ():
        area.PresentationPixelSpacing = [
            format_number_as_ds(each) for each in spacing or ()
        ]  # else pixels that are not square would become so
        area.pop("PresentationPixelAspectRatio", None)
    state.SeriesDescription = f"{title_of(model)} outlines"[:64]
    return state


_SHOWN = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "PixelRepresentation": 0}


def _images(sources: Sources, headers: Sequence[Dataset]) -> list[Dataset]:
    """What highdicom has to know of the images: the shells, and how their pixels are stored."""
    images = []
    for shell in sources.shells:
        image = Dataset()
        image.update(shell)
        for keyword, usual in _SHOWN.items():
            setattr(image, keyword, headers[0].get(keyword, usual))
        images.append(image)
    if sources.multiframe:
        images[0].NumberOfFrames = int(headers[0].get("NumberOfFrames") or 1)
    return images


def _place(images: Sequence[Dataset], sources: Sources, plane: int) -> tuple[Dataset, int | None]:
    """The image that holds a plane of the volume, and of a multi-frame one the number of the frame there."""
    return (images[0], sources.frame_numbers[plane]) if sources.multiframe else (images[plane], None)


def _polylines(segment: Segment, plane: int, uid: str) -> Iterator[GraphicObject]:
    for outline in sorted(outlines(segment.mask[plane]), key=len, reverse=True)[:MOST_OUTLINES]:
        for start in range(0, len(outline) - 1, MOST_POINTS - 1):
            points = outline[start : start + MOST_POINTS]
            yield GraphicObject(
                GraphicTypeValues.POLYLINE, points, AnnotationUnitsValues.PIXEL, tracking_id=segment.tracking_id, tracking_uid=uid
            )


def _mark(
    prediction: Prediction, segments: Sequence[Segment], layer: GraphicLayer, image: Dataset, frame: int | None, plane: int
) -> GraphicAnnotation:
    lines = [f"{FOR_REVIEW}: {title_of(prediction.model)}"]
    lines += [f"{s.label} {said_of(prediction, s.number)}".strip() for s in segments if s.mask[plane].any()]
    text = TextObject(
        "\r\n".join(lines)[:1024],
        AnnotationUnitsValues.DISPLAY,
        bounding_box=(0.01, 0.01, 0.7, min(0.05 * (1 + len(lines)), 0.9)),
        text_justification=TextJustificationValues.LEFT,
    )
    return GraphicAnnotation([image], layer, frame, text_objects=[text])


def _modality_lut(sources: Sources, header: Dataset) -> ModalityLUTTransformation | None:
    """Rescale slope and intercept of the source: without them in the presentation state the stored values are shown."""
    holders = [header]
    if sources.multiframe:
        for group in (*header.PerFrameFunctionalGroupsSequence[:1], *(header.get("SharedFunctionalGroupsSequence") or ())):
            holders += group.get("PixelValueTransformationSequence") or ()
    for holder in holders:
        if holder.get("RescaleSlope") is not None and holder.get("RescaleIntercept") is not None:
            kind = str(holder.get("RescaleType") or ("HU" if sources.modality == "CT" else "US"))
            return ModalityLUTTransformation(float(holder.RescaleIntercept), float(holder.RescaleSlope), kind)
    return None


def _windows(
    sources: Sources, headers: Sequence[Dataset], referenced: Sequence[Dataset], planes: Sequence[int]
) -> list[SoftcopyVOILUTTransformation]:
    """The windows of the images, each with the images that it holds for; one for all where there is one."""
    groups: dict[tuple[float, float], list[int]] = {}
    for plane in planes:
        frame = sources.frame_numbers[plane] if sources.multiframe else None
        window = window_of(headers[0 if sources.multiframe else plane], frame)
        if window is not None:
            groups.setdefault(window, []).append(plane)
    if len(groups) == 1 and len(next(iter(groups.values()))) == len(planes):
        ((center, width),) = groups
        return [SoftcopyVOILUTTransformation(center, width)]
    if sources.multiframe:
        return []
    by_plane = dict(zip(planes, referenced, strict=True))
    return [
        SoftcopyVOILUTTransformation(center, width, referenced_images=ReferencedImageSequence([by_plane[plane] for plane in held]))
        for (center, width), held in groups.items()
    ]
