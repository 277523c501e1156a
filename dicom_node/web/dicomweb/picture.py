"""A frame as a picture: modality LUT, VOI LUT or window, photometric interpretation (PS3.3 C.7.6.3, C.11); segments in their colours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

from dicom_node.transcode import Frame, Transcoder
from dicom_node.web.dicomweb.errors import Unprocessable
from dicom_node.web.dicomweb.pixels import Pixels, decoded_frame
from dicom_node.web.dicomweb.rendering_parameters import Rendering, Viewport, Window
from storage.archive import StoredInstance
from storage.header_json import UNREADABLE

SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
MAX_VALUES: Final = 1 << 25  # of a frame: rows x columns x samples
STRIP: Final = 1 << 20  # values that are worked on at a time: what is made on the way takes several times their memory
_COLOURS: Final = (
    (220, 60, 60),
    (60, 180, 75),
    (70, 110, 230),
    (240, 170, 40),
    (150, 80, 200),
    (60, 200, 200),
    (230, 110, 170),
    (160, 200, 60),
)


def picture_of(stored: StoredInstance, pixels: Pixels, number: int, rendering: Rendering, transcoder: Transcoder) -> Image.Image:
    """Render frame `number` (from 1).

    Raises
    ------
    Unprocessable
        It cannot be decoded, or is of a kind that cannot be shown.
    """
    if pixels.frame_values > MAX_VALUES:
        raise Unprocessable("the stored frame is too large to be rendered")
    frame = decoded_frame(stored, pixels, number, transcoder)
    header = pixels.header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings show values
        try:
            values = values_of(frame, header, pixels)
            if stored.sop_class_uid in (SEGMENTATION, LABEL_MAP):
                shown = _segments(values, header, number, stored.sop_class_uid == LABEL_MAP)
            elif values.ndim == 3:
                shown = _colour(values, frame.photometric_interpretation)
            elif frame.photometric_interpretation == "PALETTE COLOR":
                shown = _by_strips(values, lambda strip: _eight_bits(apply_color_lut(strip, header)), 3)
            else:
                shown = _gray(values, _of_frame(header, number), rendering.window, frame.photometric_interpretation)
        except (*UNREADABLE, MemoryError):
            raise Unprocessable("the stored frame cannot be rendered") from None
    return _fitted(Image.fromarray(np.ascontiguousarray(shown)), rendering.viewport)


def values_of(frame: Frame, header: Dataset, pixels: Pixels) -> NDArray[Any]:
    """The stored values, colour by pixel, each with its stored bits only."""
    if frame.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(frame.pixels, np.uint8), bitorder="little")
        return bits[: frame.rows * frame.columns].reshape(frame.rows, frame.columns)
    if pixels.tag in _FLOATS:
        return np.frombuffer(frame.pixels, _FLOATS[pixels.tag]).reshape(frame.rows, frame.columns)
    if frame.photometric_interpretation == "YBR_FULL_422" and not pixels.encapsulated:
        raise Unprocessable("colour that is stored at half its width is not rendered")
    planar = not pixels.encapsulated and frame.samples_per_pixel > 1 and header.get("PlanarConfiguration", 0) == 1
    if planar:
        flat = np.frombuffer(frame.pixels, f"<u{frame.bits_allocated // 8}")
        return flat.reshape(frame.samples_per_pixel, frame.rows, frame.columns).transpose(1, 2, 0)
    values = frame.array()
    unused = frame.bits_allocated - frame.bits_stored
    if unused > 0 and frame.samples_per_pixel == 1 and frame.high_bit + 1 == frame.bits_stored:
        values = (values << unused) >> unused  # what stands in the other bits is no part of the value
    return values


_FLOATS: Final = {0x7FE00008: "<f4", 0x7FE00009: "<f8"}  # Float and Double Float Pixel Data


def _of_frame(header: Dataset, number: int) -> Dataset:
    """The LUT attributes that hold for a frame: its own functional groups before the shared ones before the data set."""
    groups = [header.get("SharedFunctionalGroupsSequence") or []]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    groups.append(frames[number - 1 : number])
    result = Dataset()
    for name in _LUTS:
        if name in header:
            result[name] = header[name]
    for item in (item for group in groups for item in group):
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for values in item.get(macro) or []:
                result.update(values)
    return result


_LUTS: Final = (
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "BitsStored",
    "PixelRepresentation",
)


def _by_strips(values: NDArray[Any], made: Callable[[NDArray[Any]], NDArray[np.uint8]], samples: int = 0) -> NDArray[np.uint8]:
    """A picture (rows, columns), with colours (rows, columns, `samples`), made of some rows at a time."""
    picture = np.empty((*values.shape[:2], samples) if samples else values.shape, np.uint8)
    for rows in _strips(values):
        picture[rows] = made(values[rows])
    return picture


def _strips(values: NDArray[Any]) -> Iterator[slice]:
    height = max(STRIP // max(values[0].size, 1), 1)
    return (slice(top, top + height) for top in range(0, len(values), height))


def _gray(values: NDArray[Any], luts: Dataset, window: Window | None, photometric: str) -> NDArray[np.uint8]:
    window = window or _own_window(luts)
    with_voi_luts = window is None and bool(luts.get("VOILUTSequence"))

    def modality(strip: NDArray[Any]) -> NDArray[Any]:
        if strip.dtype.kind == "f":
            return strip
        shown = apply_modality_lut(strip, luts)
        return (apply_voi_lut(shown, luts) if with_voi_luts else shown).astype(np.float32)

    low, high = (0.0, 0.0) if window else _extremes(modality(values[rows]) for rows in _strips(values))

    def gray(strip: NDArray[Any]) -> NDArray[np.uint8]:
        shown = modality(strip)
        if window is not None:
            scaled = 255.0 * windowed(shown, window)
        else:
            scaled = (shown - low) * (255.0 / (high - low)) if high > low else np.zeros_like(shown)
        result = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return 255 - result if photometric == "MONOCHROME1" else result

    return _by_strips(values, gray)


def _extremes(strips: Iterator[NDArray[Any]]) -> tuple[float, float]:
    found = [(float(np.min(strip)), float(np.max(strip))) for strip in strips]
    return min(low for low, _ in found), max(high for _, high in found)


def windowed(values: NDArray[Any], window: Window) -> NDArray[Any]:
    """The VOI LUT function of PS3.3 C.11.2.1.2 and C.11.2.1.3, to 0..1."""
    if window.function == "sigmoid":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - window.center) / window.width, -80, 80)))
    if window.function == "linear-exact":
        return np.clip((values - window.center) / window.width + 0.5, 0, 1)
    if window.width <= 1:
        return (values > window.center - 0.5).astype(np.float32)
    return np.clip((values - (window.center - 0.5)) / (window.width - 1) + 0.5, 0, 1)


def _own_window(luts: Dataset) -> Window | None:
    if luts.get("WindowCenter") in (None, "") or luts.get("WindowWidth") in (None, ""):
        return None
    center, width = (_first(luts[name].value) for name in ("WindowCenter", "WindowWidth"))
    function = str(luts.get("VOILUTFunction") or "LINEAR").lower().replace("_", "-")
    if width <= 0:
        return None
    return Window(center, max(width, 1.0) if function == "linear" else width, function)


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value)


def _colour(values: NDArray[Any], photometric: str) -> NDArray[np.uint8]:
    if photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return _eight_bits(values)
    return _by_strips(values, lambda strip: convert_color_space(_eight_bits(strip), photometric, "RGB"), 3)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.itemsize == 1:
        return values.astype(np.uint8)
    return (values.astype(np.uint32) >> 8 * (values.dtype.itemsize - 1)).astype(np.uint8)


def _segments(values: NDArray[Any], header: Dataset, number: int, label_map: bool) -> NDArray[np.uint8]:
    """Segments in the colours that the object recommends, on black; a fraction dims its colour."""
    colours = {int(item.SegmentNumber): recommended(item) for item in header.get("SegmentSequence") or []}
    picture = np.zeros((*values.shape, 3), np.uint8)
    if label_map:
        for label in np.unique(values):
            if label:
                picture[values == label] = colours.get(int(label), _COLOURS[int(label) % len(_COLOURS)])
        return picture
    segment = _segment_of(header, number)
    full = float(header.get("MaximumFractionalValue", 255)) if header.get("SegmentationType") == "FRACTIONAL" else 1.0
    colour = np.array(colours.get(segment, _COLOURS[segment % len(_COLOURS)]), np.float32)
    return _by_strips(values, lambda strip: np.clip(strip[..., None] / full * colour, 0, 255).astype(np.uint8), 3)


def _segment_of(header: Dataset, number: int) -> int:
    groups = [
        *(header.get("PerFrameFunctionalGroupsSequence") or [])[number - 1 : number],
        *(header.get("SharedFunctionalGroupsSequence") or []),
    ]
    for group in groups:
        for item in group.get("SegmentIdentificationSequence") or []:
            return int(item.ReferencedSegmentNumber)
    return 1


def recommended(item: Dataset) -> tuple[int, int, int]:
    """Recommended Display CIELab Value (PS3.3 C.10.7.1.1) as sRGB; a colour of ours where there is none."""
    lab = item.get("RecommendedDisplayCIELabValue")
    if not lab or len(lab) != 3:
        return _COLOURS[int(item.SegmentNumber) % len(_COLOURS)]
    lightness, a, b = int(lab[0]) / 655.35, int(lab[1]) / 257.0 - 128, int(lab[2]) / 257.0 - 128
    y = (lightness + 16) / 116
    xyz = [
        w * (t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29))
        for w, t in zip((0.96422, 1.0, 0.82521), (y + a / 500, y, y - b / 200))
    ]
    linear = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]) @ np.array(xyz)
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(value) for value in np.rint(255 * srgb))
    return red, green, blue


def _fitted(picture: Image.Image, viewport: Viewport | None) -> Image.Image:
    """Cropped to the region and scaled into the viewport, its proportions kept; a negative width or height mirrors (PS3.18 8.3.5.1.3)."""
    if viewport is None:
        return picture
    if viewport.region is not None:
        left, top, width, height = viewport.region
        box = (int(left), int(top), min(round(left + abs(width)), picture.width), min(round(top + abs(height)), picture.height))
        if box[2] <= box[0] or box[3] <= box[1]:
            raise Unprocessable("the region of viewport lies outside the image")
        picture = picture.crop(box)
        if width < 0:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if height < 0:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    scale = min(viewport.width / picture.width, viewport.height / picture.height)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.BILINEAR)
