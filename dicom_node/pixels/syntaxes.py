"""Which transfer syntaxes are read and written (PS3.5 8, annex A); needs no codec."""

from __future__ import annotations

from typing import Final

from dicom_node.dimse.contexts import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

NATIVE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)
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

WAVELET: Final = frozenset({JPEG_2000, JPEG_2000_LOSSY, HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY})
LOSSY: Final = JPEG_LOSSY | {JPEG_LS_NEAR, JPEG_2000_LOSSY, HTJ2K_LOSSY}
DECODED: Final = JPEG_LOSSLESS | LOSSY | WAVELET | {RLE, JPEG_LS, DEFLATED_FRAMES}
ENCODED: Final = (JPEG_LS, JPEG_2000, HTJ2K, RLE)
"""Syntaxes that are written, in the order of preference."""
