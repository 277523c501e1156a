"""Stored data sets in another transfer syntax, and single frames decoded; the work is done in child processes with limits.

::

    transcoder = Transcoder()                       # one a process; starts a child when the first piece of work needs one
    data = transcoder.transcode(data, source, target)
    frame = transcoder.decode_frame(data, source, 1)

Changes are lossless: the pixel values, photometric interpretation and SOP Instance UID stay (PS3.5 8, annex A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_node.errors import NodeError


class TranscodeError(NodeError):
    """A data set that cannot be had in another transfer syntax, or a frame that cannot be decoded; says why, without any value."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes
    ----------
    pixels
        The frame as native little endian bytes, colour by pixel (Planar Configuration 0).
    """

    pixels: bytes
    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    photometric_interpretation: str

    def array(self) -> NDArray[Any]:
        """The stored values, (rows, columns) or (rows, columns, samples), unsigned or signed as Pixel Representation says."""
        kind = "f" if self.bits_allocated in (32, 64) and self.pixel_representation < 0 else "i" if self.pixel_representation else "u"
        values = np.frombuffer(self.pixels, f"<{kind}{self.bits_allocated // 8}")
        shape = (self.rows, self.columns) if self.samples_per_pixel == 1 else (self.rows, self.columns, self.samples_per_pixel)
        return values.reshape(shape)


class Transcoder:
    """Child processes that transcode and decode; thread-safe."""

    def transcode(self, data: bytes, source: str, target: str) -> bytes:
        """A data set (without file meta) of transfer syntax ``source`` as one of ``target``.

        Raises
        ------
        TranscodeError
        """
        raise TranscodeError(f"{source} cannot be changed to {target}")

    def decode_frame(self, data: bytes, source: str, number: int) -> Frame:
        """Decode frame ``number`` (from 1) of a data set (without file meta) of transfer syntax ``source``.

        Raises
        ------
        TranscodeError
        """
        raise TranscodeError(f"{source} cannot be decoded")

    def close(self) -> None:
        """End the children."""


def targets(source: str) -> tuple[str, ...]:
    """Transfer syntaxes that ``source`` can be changed to, the best one first; the source itself not among them."""
    return ()
