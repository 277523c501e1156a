"""One frame to and from each compressed transfer syntax, by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH).

Every value is a frame as an array (rows, columns[, samples]) of the width that Bits Allocated says.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from struct import pack
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dicom_node.pixels.syntaxes import (
    DEFLATED_FRAMES,
    HTJ2K,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LOSSY,
    JPEG_LS,
    JPEG_LS_NEAR,
    RLE,
    WAVELET,
)

Pixels = NDArray[Any]

class CodecError(ValueError):
    """A frame that its codec does not take, or that is not what the data set says."""


@dataclass(frozen=True)
class Layout:
    """What the data set says of each frame (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def unsigned(self) -> np.dtype[Any]:
        return np.dtype(f"<u{self.bits_allocated // 8}")

    @property
    def frame_size(self) -> int:
        """Bytes of a native frame of whole bytes."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


def decode(frame: bytes, syntax: str, layout: Layout) -> tuple[Pixels, str]:
    """Decode a frame.

    Returns
    -------
    pixels, photometric interpretation
        The latter differs from the data set's where the codec undid a colour transform.

    Raises
    ------
    CodecError
    """
    try:
        pixels, photometric = _decode(frame, syntax, layout)
    except (CodecError, MemoryError):
        raise
    except Exception as error:
        raise CodecError(f"the frame cannot be decoded: {type(error).__name__}") from error
    if pixels.shape != layout.shape:
        raise CodecError(f"a frame of {pixels.shape} where the data set says {layout.shape}")
    return _fit(pixels, layout, syntax), photometric


def _decode(frame: bytes, syntax: str, layout: Layout) -> tuple[Pixels, str]:
    photometric = layout.photometric
    if syntax == RLE:
        return _decode_rle(frame, layout), photometric
    if syntax == DEFLATED_FRAMES:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, layout.frame_size)
        return np.frombuffer(inflated[: layout.frame_size], layout.unsigned).reshape(layout.shape), photometric
    if syntax in JPEG_LOSSLESS:
        kept = "RGB" if layout.samples == 3 else None
        return imagecodecs.jpeg8_decode(frame, colorspace=kept, outcolorspace=kept), photometric
    if syntax in JPEG_LOSSY:
        if layout.samples == 3 and photometric.startswith("YBR"):
            return imagecodecs.jpeg8_decode(frame, colorspace="YCBCR", outcolorspace="RGB"), "RGB"
        kept = "RGB" if layout.samples == 3 else None
        return imagecodecs.jpeg8_decode(frame, colorspace=kept, outcolorspace=kept), photometric
    if syntax in (JPEG_LS, JPEG_LS_NEAR):
        return imagecodecs.jpegls_decode(frame), photometric
    if syntax in WAVELET:
        return imagecodecs.jpeg2k_decode(frame), "RGB" if photometric in ("YBR_RCT", "YBR_ICT") else photometric
    raise CodecError("no decoder for this transfer syntax")


def _decode_rle(frame: bytes, layout: Layout) -> Pixels:
    """PS3.5 annex G: a segment for each byte of each sample, the highest byte first."""
    if len(frame) < 64 or int.from_bytes(frame[:4], "little") != layout.samples * layout.bits_allocated // 8:
        raise CodecError("RLE with another number of segments than its samples need")
    decoded = np.frombuffer(imagecodecs.dicomrle_decode(frame, layout.unsigned), layout.unsigned)
    if layout.samples == 1:
        return decoded[: layout.rows * layout.columns].reshape(layout.shape)
    planes = decoded[: layout.rows * layout.columns * layout.samples].reshape(layout.samples, layout.rows, layout.columns)
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def _fit(pixels: Pixels, layout: Layout, syntax: str) -> Pixels:
    """The values in the data set's own width and sign."""
    if syntax in (RLE, DEFLATED_FRAMES):
        return pixels
    width = layout.bits_allocated
    if not layout.signed:
        return pixels.astype(layout.unsigned, copy=False)
    values = pixels.astype(f"<i{width // 8}" if pixels.dtype.itemsize * 8 <= width else "<i8")
    spare = width - layout.bits_stored
    if spare and pixels.dtype.kind == "u":  # codes of Bits Stored bits: the sign goes up to the top (PS3.5 8.1.1)
        values = (values << spare) >> spare
    return values.astype(f"<i{width // 8}", copy=False).view(layout.unsigned)


def encode(pixels: Pixels, syntax: str, layout: Layout) -> bytes:
    """Encode a frame without loss.

    Raises
    ------
    CodecError
    """
    try:
        encoded = _encode(np.ascontiguousarray(pixels), syntax, layout)
        back, _ = decode(encoded, syntax, layout)
    except (CodecError, MemoryError):
        raise
    except Exception as error:
        raise CodecError(f"the frame cannot be encoded: {type(error).__name__}") from error
    if not np.array_equal(back, pixels):
        raise CodecError("the frame does not come back as it was")
    return encoded


def _encode(pixels: Pixels, syntax: str, layout: Layout) -> bytes:
    if syntax == RLE:
        return _encode_rle(pixels, layout)
    if layout.high_bit != layout.bits_stored - 1:
        raise CodecError("High Bit is not the highest of the stored bits")
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(pixels, 0))
    values = pixels.view(f"<i{layout.bits_allocated // 8}") if layout.signed else pixels
    if syntax == JPEG_2000:
        return bytes(imagecodecs.jpeg2k_encode(values, 0, codecformat="J2K", bitspersample=layout.bits_stored, reversible=True, mct=False))
    if syntax == HTJ2K:
        return bytes(imagecodecs.htj2k_encode(values, 0, rgb=False, reversible=True))
    raise CodecError("no encoder for this transfer syntax")


def _encode_rle(pixels: Pixels, layout: Layout) -> bytes:
    """PS3.5 annex G: a segment for each byte of each sample, the highest byte first; runs end with their row."""
    planes = pixels.view(np.uint8).reshape(layout.rows, layout.columns, layout.samples, layout.bits_allocated // 8)
    segments, offsets, position = [], [], 64
    for sample in range(layout.samples):
        for byte in reversed(range(planes.shape[3])):
            packed = bytes(imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, :, sample, byte]), axis=-1))
            segments.append(packed + bytes(len(packed) & 1))
            offsets.append(position)
            position += len(segments[-1])
    return pack("<16L", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)
