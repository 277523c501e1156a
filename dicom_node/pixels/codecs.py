"""One frame to and from each compressed transfer syntax, by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH).

Every value is a frame as an array (rows, columns[, samples]) of the width that Bits Allocated says.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

RLE: Final = "1.2.840.10008.1.2.5"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS: Final = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
JPEG_LOSSY: Final = frozenset({f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55)})
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000_LOSSY: Final = "1.2.840.10008.1.2.4.91"
HTJ2K: Final = "1.2.840.10008.1.2.4.201"
HTJ2K_RPCL: Final = "1.2.840.10008.1.2.4.202"
HTJ2K_LOSSY: Final = "1.2.840.10008.1.2.4.203"
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"

_WAVELET: Final = frozenset({JPEG_2000, JPEG_2000_LOSSY, HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY})
LOSSY: Final = JPEG_LOSSY | {JPEG_LS_NEAR, JPEG_2000_LOSSY, HTJ2K_LOSSY}
DECODED: Final = JPEG_LOSSLESS | LOSSY | _WAVELET | {RLE, JPEG_LS, DEFLATED_FRAMES}
ENCODED: Final = (JPEG_LS, JPEG_2000, HTJ2K, RLE)
"""Syntaxes that are written, in the order of preference."""


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
    if syntax in _WAVELET:
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
        planes = pixels if layout.samples == 1 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        return _encode_rle(planes, layout)
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


def _encode_rle(planes: Pixels, layout: Layout) -> bytes:
    return bytes(imagecodecs.dicomrle_encode(planes))  # type: ignore[arg-type]
