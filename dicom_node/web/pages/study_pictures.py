"""Key images of a result: source images with the segments of its SEG drawn in, as JPEG; nothing of it is stored.

The planes shown are those in which the segments are largest. Frames are decoded in the children, few pictures are made at a time.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from dicom_node.results.display import OPACITY, rim, spacing_of
from dicom_node.transcode import Transcoder
from dicom_node.web.dicomweb.errors import NoSuchResource, WebError
from dicom_node.web.dicomweb.picture import MAX_VALUES, picture_of, recommended, values_of
from dicom_node.web.dicomweb.pixels import Pixels, decoded_frame, pixels_of
from dicom_node.web.dicomweb.rendered import place
from dicom_node.web.dicomweb.rendering_parameters import Rendering
from storage.archive import Archive, StoredInstance
from storage.errors import StorageError
from storage.feedback import SEGMENTATIONS
from storage.header_json import UNREADABLE

MOST_FRAMES: Final = 2000  # of a SEG that is looked through
MOST_PLANES: Final = 4
SIDE: Final = 640
REMEMBERED: Final = 64  # pictures, and as many plans
QUALITY: Final = 88


@dataclass(frozen=True)
class Plane:
    """One image with what of it is segmented. ``frames``: (frame of the SEG from 1, segment number)."""

    source: str  # SOP Instance UID
    source_frame: int
    frames: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """What a SEG shows best."""

    segmentation: StoredInstance
    planes: tuple[Plane, ...]
    colours: dict[int, tuple[int, int, int]]
    labels: dict[int, str]


class KeyImages:
    """The key images of the studies of an archive; thread-safe, the last ones are remembered."""

    def __init__(self, archive: Archive, transcoder: Transcoder) -> None:
        self._archive = archive
        self._transcoder = transcoder
        self._plans: OrderedDict[str, Plan | None] = OrderedDict()
        self._pictures: OrderedDict[tuple[str, int, bool], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def planned(self, objects: Iterable[str]) -> Plan | None:
        """What to show of the SEG among a run's objects; None where there is none that can be read."""
        for uid in objects:
            try:
                stored = self._archive.open_instance(uid)
                if stored.sop_class_uid in SEGMENTATIONS and not stored.damaged:
                    return self._plan(stored)
            except (StorageError, WebError, OSError, *UNREADABLE):
                continue  # it was deleted, or another program's tools made it in a way that cannot be shown
        return None

    def picture(self, plan: Plan, number: int, *, overlay: bool) -> bytes:
        """One key image (from 0) as JPEG.

        Raises
        ------
        NoSuchResource, Unprocessable, Busy
        """
        if not 0 <= number < len(plan.planes):
            raise NoSuchResource("there is no such key image")
        key = plan.segmentation.digest, number, overlay
        with self._lock:
            if (known := self._pictures.get(key)) is not None:
                return known
        with place():
            made = self._made(plan, plan.planes[number], overlay=overlay)
        with self._lock:
            self._pictures[key] = made
            while len(self._pictures) > REMEMBERED:
                self._pictures.popitem(last=False)
        return made

    def _plan(self, stored: StoredInstance) -> Plan | None:
        with self._lock:
            if stored.digest in self._plans:
                return self._plans[stored.digest]
        with place():
            pixels = pixels_of(stored)
            plan = None
            if pixels.frames <= MOST_FRAMES and pixels.frame_values <= MAX_VALUES:
                items = pixels.header.get("SegmentSequence") or []
                planes = _largest(planes_of(pixels.header), lambda frame: self._size(stored, pixels, frame))
                colours = {int(item.SegmentNumber): recommended(item) for item in items}
                labels = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "") for item in items}
                plan = Plan(stored, planes, colours, labels) if planes else None
        with self._lock:
            self._plans[stored.digest] = plan
            while len(self._plans) > REMEMBERED:
                self._plans.popitem(last=False)
        return plan

    def _size(self, stored: StoredInstance, pixels: Pixels, frame: int) -> int:
        """How many pixels of a frame are segmented; 0 where counting would need a decoder for each of many frames."""
        if pixels.encapsulated:
            return 0
        return int(np.count_nonzero(self._mask(stored, pixels, frame)))

    def _mask(self, stored: StoredInstance, pixels: Pixels, frame: int) -> NDArray[np.bool_]:
        values = values_of(decoded_frame(stored, pixels, frame, self._transcoder), pixels.header, pixels)
        half = float(pixels.header.get("MaximumFractionalValue", 255)) / 2 if pixels.header.get("SegmentationType") == "FRACTIONAL" else 0.5
        mask: NDArray[np.bool_] = values >= half
        return mask

    def _made(self, plan: Plan, plane: Plane, *, overlay: bool) -> bytes:
        source = self._archive.open_instance(plane.source)
        if source.study_uid != plan.segmentation.study_uid:  # who asks may see this study, and perhaps not that one
            raise NoSuchResource("the image of this result is in another study")
        pixels = pixels_of(source)
        picture = picture_of(source, pixels, plane.source_frame, Rendering(), self._transcoder).convert("RGB")
        size = fitted(picture.size, spacing_of(pixels.header))
        coloured = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)
        if overlay:
            coloured = coloured.copy()
            drawn = pixels_of(plan.segmentation)
            for frame, segment in plane.frames:
                mask = self._mask(plan.segmentation, drawn, frame)
                _draw(coloured, mask, plan.colours.get(segment, (220, 60, 60)))
        out = io.BytesIO()
        Image.fromarray(np.rint(coloured).astype(np.uint8)).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()


def _draw(picture: NDArray[np.float32], mask: NDArray[np.bool_], colour: Sequence[int]) -> None:
    rows, columns = picture.shape[:2]
    shown = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST))
    paint = np.asarray(colour, np.float32)
    picture[shown] = picture[shown] * (1 - OPACITY) + paint * OPACITY
    picture[rim(shown)] = paint


def fitted(size: tuple[int, int], spacing: tuple[float, float] | None) -> tuple[int, int]:
    """Columns and rows of a picture with square pixels whose longer side is at most `SIDE`, and at least half of it."""
    between_rows, between_columns = spacing or (1.0, 1.0)
    wide, high = size[0] * between_columns, size[1] * between_rows
    scale = SIDE / max(wide, high)
    return max(round(wide * scale), 1), max(round(high * scale), 1)


def planes_of(header: Dataset) -> list[Plane]:
    """The images that a SEG refers to, frame by frame (PS3.3 C.8.20.2, C.7.6.16.2.6), in its order."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    for number, group in enumerate(header.get("PerFrameFunctionalGroupsSequence") or [], start=1):
        segment = _first((group, *shared), "SegmentIdentificationSequence")
        derived = _first((group, *shared), "DerivationImageSequence")
        source = _first((derived,), "SourceImageSequence") if derived is not None else None
        if source is not None and source.get("ReferencedSOPInstanceUID"):
            frame: Any = source.get("ReferencedFrameNumber") or 1
            of = int(frame[0] if isinstance(frame, list | tuple) or hasattr(frame, "append") else frame)
            number_of = int(segment.ReferencedSegmentNumber) if segment is not None else 1
            found[str(source.ReferencedSOPInstanceUID), of].append((number, number_of))
    return [Plane(uid, of, tuple(frames)) for (uid, of), frames in found.items()]


def _first(holders: Iterable[Dataset], name: str) -> Any:
    return next((item for holder in holders for item in holder.get(name) or []), None)


def _largest(planes: Sequence[Plane], size: Any) -> tuple[Plane, ...]:
    """For each segment the image in which it is largest, then the next largest ones; in the order of the images."""
    sizes = {frame: size(frame) for plane in planes for frame, _ in plane.frames}
    best: dict[int, tuple[int, int, int]] = {}  # size, how near the middle, place
    for index, plane in enumerate(planes):
        for frame, segment in plane.frames:
            best[segment] = max(best.get(segment, (-1, 0, 0)), (sizes[frame], -abs(2 * index - len(planes) + 1), index))
    chosen = dict.fromkeys(index for _, _, index in sorted(best.values(), reverse=True))
    for share in (0.5, 0.35, 0.65):  # beside them the middle and what lies around it
        if len(chosen) < min(3, len(planes)):
            chosen.setdefault(int(len(planes) * share))
    return tuple(planes[index] for index in sorted(list(chosen)[:MOST_PLANES]))
