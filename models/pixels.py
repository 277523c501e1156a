"""Stored pixels to values: bounded before, exact after.

Uncompressed little endian pixels are viewed straight from the file's bytes; anything else goes
through pydicom's decoders. Only the bits that count (Bits Stored, High Bit) become the value, with
their sign (PS3.5 section 8.1.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from models.errors import GeometryRefused, Refusal
from models.frames import Frame

CHUNK = 1 << 20


def check_size(dataset: Dataset, number: int, budget: int) -> int:
    """Bytes that the decoded frames will take; refuses what is no monochrome image or above budget."""
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if rows <= 0 or columns <= 0 or "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise GeometryRefused(Refusal.NOT_AN_IMAGE, f"Image {number} has floating point pixel data, which is not supported.")
        raise GeometryRefused(Refusal.NOT_AN_IMAGE, f"Object {number} has no pixels; it is no image.")
    samples, photometric = _integer(dataset, "SamplesPerPixel", 1), str(dataset.get("PhotometricInterpretation", ""))
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise GeometryRefused(
            Refusal.NOT_MONOCHROME, f"Image {number} is not monochrome ({photometric or 'unknown'}, {samples} samples a pixel)."
        )
    allocated = _integer(dataset, "BitsAllocated")
    if allocated == 1:
        raise GeometryRefused(Refusal.NOT_AN_IMAGE, f"Object {number} has one bit a pixel; it is a segmentation and no image.")
    if allocated not in (8, 16, 32):
        raise GeometryRefused(Refusal.PIXEL_DATA_BROKEN, f"Image {number} allocates {allocated} bits a pixel; 8, 16 or 32 are possible.")
    frames = max(1, _integer(dataset, "NumberOfFrames", 1))
    size = rows * columns * frames * (allocated // 8)
    if size > budget:
        raise GeometryRefused(Refusal.TOO_LARGE, f"The images would take more memory than allowed (image {number} alone {size >> 20} MiB).")
    return size


def refuse_inflation(data: bytes, limit: int) -> None:
    """Refuse a deflated data set that would inflate beyond ``limit`` bytes, before anything inflates it whole."""
    group_length = int.from_bytes(data[140:144], "little")
    start = 144 + group_length
    if data[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() + b"\0" not in data[144:start]:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = data[start:], 0
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, CHUNK))
        rest = inflater.unconsumed_tail
        if size > limit:
            raise GeometryRefused(Refusal.TOO_LARGE, "A compressed data set would take more memory than allowed.")


def decode_values(datasets: Sequence[Dataset], frames: Sequence[Frame]) -> NDArray[Any]:
    """(frames, rows, columns) of values, in the order of ``frames``: int16 where exact, else float32."""
    pixels = {index: _stored_frames(datasets[index], index + 1) for index in dict.fromkeys(frame.dataset for frame in frames)}
    lut = [index for index, dataset in enumerate(datasets) if dataset.get("ModalityLUTSequence")]
    first = pixels[frames[0].dataset]
    identity = not lut and all(frame.slope == 1.0 and frame.intercept == 0.0 for frame in frames)
    exact = identity and all(np.can_cast(array.dtype, np.int16) or _fits(datasets[index], array) for index, array in pixels.items())
    values = np.empty((len(frames), *first.shape[1:]), dtype=np.int16 if exact else np.float32)
    for slot, frame in enumerate(frames):
        stored = _significant(pixels[frame.dataset][frame.index], datasets[frame.dataset])
        if frame.dataset in lut:
            values[slot] = apply_modality_lut(stored, datasets[frame.dataset])
        elif frame.slope == 1.0 and frame.intercept == 0.0:
            values[slot] = stored
        else:
            values[slot] = stored * frame.slope + frame.intercept
    return values


def _fits(dataset: Dataset, array: NDArray[Any]) -> bool:
    """Unsigned 16 bit pixels fit int16 when their top bit is unused."""
    return bool(array.dtype == np.uint16 and _integer(dataset, "BitsStored", 16) < 16)


def _stored_frames(dataset: Dataset, number: int) -> NDArray[Any]:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = max(1, _integer(dataset, "NumberOfFrames", 1))
    syntax = dataset.file_meta.TransferSyntaxUID
    allocated, signed = int(dataset.BitsAllocated), _integer(dataset, "PixelRepresentation") == 1
    try:
        if syntax.is_compressed and not syntax.is_deflated:
            return pixel_array(dataset, raw=True).reshape(frames, rows, columns)
        kind = np.dtype(f"{'>' if syntax == ExplicitVRBigEndian and allocated > 8 else '<'}{'i' if signed else 'u'}{allocated // 8}")
        return np.frombuffer(dataset.PixelData, kind, frames * rows * columns).reshape(frames, rows, columns)
    except Exception as error:  # decoders are foreign code and raise anything
        raise GeometryRefused(
            Refusal.PIXEL_DATA_BROKEN,
            f"The pixel data of image {number} is shorter than its size says, or cannot be decoded ({syntax.name}).",
        ) from error


def _significant(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    allocated, bits = int(dataset.BitsAllocated), _integer(dataset, "BitsStored", int(dataset.BitsAllocated))
    high = _integer(dataset, "HighBit", bits - 1)
    if bits == allocated or not 0 < bits <= high + 1 <= allocated:
        return stored
    left = stored.dtype.type(allocated - 1 - high)
    right = stored.dtype.type(allocated - bits)
    significant: NDArray[Any] = (stored << left) >> right
    return significant


def _integer(dataset: Dataset, keyword: str, default: int = 0) -> int:
    try:
        return int(dataset.get(keyword, default))
    except (TypeError, ValueError):
        return default
