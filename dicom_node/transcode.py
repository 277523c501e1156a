"""Stored data sets in another transfer syntax, and single frames decoded; the work is done in child processes with limits.

::

    transcoder = Transcoder()                       # one a process; starts a child when the first piece of work needs one
    data = transcoder.transcode(data, source, target)
    frame = transcoder.decode_frame(data, source, 1)

Changes are lossless: the pixel values, photometric interpretation and SOP Instance UID stay (PS3.5 8, annex A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicom_node.pixels.pool import ChildPool, ChildrenBusy, TranscodeError
from dicom_node.pixels.syntaxes import DECODED, ENCODED, LOSSY, NATIVE

__all__ = ["ChildrenBusy", "Frame", "TranscodeError", "Transcoder", "targets"]


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
        kind = "i" if self.pixel_representation else "u"
        values = np.frombuffer(self.pixels, f"<{kind}{self.bits_allocated // 8}")
        shape = (self.rows, self.columns) if self.samples_per_pixel == 1 else (self.rows, self.columns, self.samples_per_pixel)
        return values.reshape(shape)


MAX_BYTES: Final = 1 << 30
"""Longest data set that is transcoded or decoded; who reads one for that looks at its length first."""


class Transcoder:
    """Child processes that transcode and decode; thread-safe.

    Parameters
    ----------
    children
        How many work at once.
    limit
        Most bytes of the decoded pixels of a data set.
    deadline
        Seconds for one piece of work.
    wait
        Seconds for which work waits for a child that is free.
    """

    def __init__(self, *, children: int = 2, limit: int = MAX_BYTES, deadline: float = 120.0, wait: float = 120.0) -> None:
        self._limit = limit
        self._pool = ChildPool(children, limit=limit, deadline=deadline, wait=wait)

    def targets(self, source: str) -> tuple[str, ...]:
        """Transfer syntaxes that ``source`` can be changed to; see :func:`targets`."""
        return targets(source)

    def transcode(self, data: bytes | memoryview, source: str, target: str) -> bytes:
        """A data set (without file meta) of transfer syntax ``source`` as one of ``target``.

        Raises
        ------
        ChildrenBusy
        TranscodeError
        """
        if target not in targets(source):
            raise TranscodeError(f"{source} cannot be changed to {target} without loss")
        if len(data) > self._limit:
            raise TranscodeError("the data set is larger than what is transcoded")
        return self._pool.call({"do": "recode", "source": source, "target": target}, data)[1]

    def decode_frame(self, data: bytes | memoryview, source: str, number: int) -> Frame:
        """Decode frame ``number`` (from 1) of a data set (without file meta) of transfer syntax ``source``.

        Raises
        ------
        ChildrenBusy
        TranscodeError
        """
        if len(data) > self._limit:
            raise TranscodeError("the data set is larger than what is decoded")
        head, pixels = self._pool.call({"do": "frame", "source": source, "frame": number}, data)
        return Frame(
            pixels=pixels,
            rows=head["rows"],
            columns=head["columns"],
            samples_per_pixel=head["samples"],
            bits_allocated=head["bits_allocated"],
            bits_stored=head["bits_stored"],
            high_bit=head["high_bit"],
            pixel_representation=int(head["signed"]),
            photometric_interpretation=head["photometric"],
        )

    def close(self) -> None:
        """End the children."""
        self._pool.close()


def targets(source: str) -> tuple[str, ...]:
    """Transfer syntaxes that ``source`` can be changed to without loss, the best one first; the source itself not among them.

    From a lossy syntax to the uncompressed ones only: what was lost stays lost, and Lossy Image Compression still says so.
    """
    if source not in NATIVE and source not in DECODED:
        return ()
    return tuple(uid for uid in (*NATIVE, *(ENCODED if source not in LOSSY else ())) if uid != source)
