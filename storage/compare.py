"""Whether two instances hold the same content in two lossless transfer syntaxes.

Asked when a UID arrives again in another syntax: off the fast path, and in a child process with limits, because pixels are decoded.
Whatever goes wrong there means "not the same": the newcomer is then kept in quarantine, so nothing is lost.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

LOSSLESS = frozenset(
    "1.2.840.10008.1.2" + ending
    for ending in ("", ".1", ".1.99", ".2", ".5", ".4.57", ".4.70", ".4.80", ".4.90", ".4.92", ".4.201", ".4.202")
)
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
LITTLE_ENDIAN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})  # pixels as they are
# How pixels lie, not what they are: these may differ between two syntaxes of the same image.
ENCODING_OF_PIXELS = frozenset({"(7FE0,0010)", "(7FE0,0001)", "(7FE0,0002)", "(7FE0,0003)", "(0028,0004)", "(0028,0006)"})
SECONDS = 60
MEMORY = 4 << 30
MAX_PIXEL_BYTES = 1 << 30

Range = tuple[Path, int, int]  # file, offset, length of a Part 10 file


def same_content(existing: Range, offered: Range) -> bool:
    """Compare two Part 10 files in a child process; False where it cannot be told."""
    return _succeeds([str(part) for side in (existing, offered) for part in side])


def encoded_as(offered: Range, transfer_syntax_uid: str, target: Path) -> bool:
    """Write a Part 10 file's data set to `target` in an uncompressed little endian syntax, in a child process.

    Only a digest tells whether these are the bytes that once were: there is more than one way to encode a data set. False where there is
    none.
    """
    if transfer_syntax_uid not in (IMPLICIT, EXPLICIT):
        return False
    return _succeeds([*map(str, offered), transfer_syntax_uid, str(target)])


def _succeeds(arguments: list[str]) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "storage.compare", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def equal(existing: bytes, offered: bytes) -> bool:
    """Compare two Part 10 files here: all attributes, and the decoded pixels."""
    import numpy as np
    from pydicom import dcmread

    from storage.difference import compare

    if any(each.path not in ENCODING_OF_PIXELS for each in compare(io.BytesIO(existing), io.BytesIO(offered))):
        return False
    left, right = dcmread(io.BytesIO(existing)), dcmread(io.BytesIO(offered))
    syntaxes = {str(left.file_meta.TransferSyntaxUID), str(right.file_meta.TransferSyntaxUID)}
    if not syntaxes <= LOSSLESS or ("PixelData" in left) != ("PixelData" in right):
        return False
    if "PixelData" not in left or (syntaxes <= LITTLE_ENDIAN and left.PixelData == right.PixelData):
        return True
    size = left.Rows * left.Columns * int(left.get("NumberOfFrames", 1) or 1) * left.get("SamplesPerPixel", 1) * left.BitsAllocated // 8
    return size <= MAX_PIXEL_BYTES and bool(np.array_equal(left.pixel_array, right.pixel_array))


def encode(offered: bytes, transfer_syntax_uid: str) -> bytes:
    """The data set of a Part 10 file in an uncompressed little endian syntax."""
    from pydicom import dcmread
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    dataset = dcmread(io.BytesIO(offered))
    if str(dataset.file_meta.TransferSyntaxUID) not in LOSSLESS:
        raise ValueError("not lossless")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.decompress()
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, transfer_syntax_uid == IMPLICIT
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def main(arguments: list[str]) -> int:
    """Exit code 0: the same content, or encoded."""
    _limit()
    if len(arguments) == 5:
        Path(arguments[4]).write_bytes(encode(_read(*arguments[:3]), arguments[3]))
        return 0
    first, second = arguments[:3], arguments[3:]
    return 0 if equal(_read(*first), _read(*second)) else 1


def _read(path: str, offset: str, length: str) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(int(offset))
        return file.read(int(length))


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
