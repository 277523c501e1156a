"""Reading multipart/related (RFC 2046 5.1, RFC 2387) as it comes: parts of any size, nothing of them kept.

`MultipartReader.feed` takes the body in whatever pieces the network made of it and yields what they say: a part begins, some of its
bytes, it ends. The same body gives the same parts however it was cut. Bytes are yielded as views of the pieces; a boundary is looked for
with ``bytes.find`` only, so a large part costs little more than its copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MAX_HEADERS: Final = 16 << 10  # bytes of one part's header lines
MAX_PADDING: Final = 256  # blanks that may follow a boundary on its line
MAX_PREAMBLE: Final = 64 << 10

_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER: Final = re.compile(r';\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s][^;]*)?\s*')
_MEDIA_TYPE: Final = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*")


class MultipartError(ValueError):
    """The body is no multipart, or breaks off; the text is one line for the sender."""


@dataclass(frozen=True)
class PartBegin:
    """A part starts. ``headers``: its header fields, names in lower case, the first of each name."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class PartData:
    """Some bytes of the part; valid until the next event."""

    data: memoryview


@dataclass(frozen=True)
class PartEnd:
    """The part is complete."""


Event = PartBegin | PartData | PartEnd


def parse_media_type(value: str) -> tuple[str, dict[str, str]]:
    """A Content-Type's type in lower case, and its parameters, quotes taken off.

    Raises
    ------
    MultipartError
        It is none.
    """
    found = _MEDIA_TYPE.match(value)
    if found is None:
        raise MultipartError("Content-Type is no media type")
    parameters: dict[str, str] = {}
    position = found.end()
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if parameter is None:
            if value[position:].strip(" ;\t"):
                raise MultipartError("parameters of Content-Type cannot be read")
            break
        text = (parameter[2] or "").strip()
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        parameters.setdefault(parameter[1].lower(), text)
        position = parameter.end()
    return found[1].lower(), parameters


def checked_boundary(boundary: str) -> bytes:
    """The boundary's bytes.

    Raises
    ------
    MultipartError
        It is missing, or holds what RFC 2046 does not allow. Orthanc's have 73 characters, so the standard's 70 are not insisted on.
    """
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("boundary is missing or not as RFC 2046 has it")
    return boundary.encode("ascii")


_PREAMBLE, _HEADERS, _BODY, _EPILOGUE = range(4)
_LINE_END: Final = re.compile(rb"[ \t]*\r\n")
_UNDECIDED: Final = re.compile(rb"-?|[ \t]*\r?")


class MultipartReader:
    """A push parser for one body."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + checked_boundary(boundary)
        self._state = _PREAMBLE
        self._pending = b"\r\n"  # the first boundary may stand at the very beginning, without a line break before it
        self._preamble = 0
        self._skip = 0

    @property
    def finished(self) -> bool:
        """Whether the closing boundary was seen; what follows it is ignored."""
        return self._state == _EPILOGUE

    def feed(self, data: bytes) -> Iterator[Event]:
        """What the next piece of the body says.

        Raises
        ------
        MultipartError
            Header lines that are none, or too long; no boundary within reach.
        """
        data = self._pending + data if self._pending else data
        self._pending, position = b"", 0
        while self._state != _EPILOGUE:
            if self._state == _HEADERS:
                end = data.find(b"\r\n\r\n", position)
                if (end if end >= 0 else len(data)) - position > MAX_HEADERS:
                    raise MultipartError("header lines of a part are too long")
                if end < 0:
                    self._pending = data[position:]
                    return
                yield PartBegin(_headers(data[position:end]))
                # The line break of the blank line may be the next boundary's own, where the part holds nothing.
                self._state, position, self._skip = _BODY, end + 2, 2
                continue
            end, state, after = self._find(data, position)
            if self._state == _PREAMBLE:
                self._count_preamble(end - position)
            elif end > position:
                begin, self._skip = position + self._skip, 0
                if end > begin:
                    yield PartData(memoryview(data)[begin:end])
            if state is None:
                self._pending = data[end:]
                return
            if self._state == _BODY:
                yield PartEnd()
            self._state, position = state, after

    def close(self) -> None:
        """The body has ended.

        Raises
        ------
        MultipartError
            Before its closing boundary.
        """
        if not self.finished:
            raise MultipartError("body ends before its closing boundary")

    def _find(self, data: bytes, position: int) -> tuple[int, int | None, int]:
        """How far the bytes from ``position`` belong to the part, and what the boundary after them leads to: a state and its position."""
        delimiter, start = self._delimiter, position
        while (at := data.find(delimiter, start)) >= 0:
            after = at + len(delimiter)
            if data.startswith(b"--", after):
                return at, _EPILOGUE, after + 2
            line = _LINE_END.match(data, after, after + MAX_PADDING + 2)
            if line:
                return at, _HEADERS, line.end() - 2
            if len(data) - after < MAX_PADDING + 2 and _UNDECIDED.fullmatch(data, after):
                return at, None, 0
            start = at + 1  # it only looks like one
        return self._possible_start(data, position), None, 0

    def _possible_start(self, data: bytes, position: int) -> int:
        """Where the last bytes may be the beginning of a boundary; the end of ``data`` where they cannot."""
        at = data.find(b"\r", max(position, len(data) - len(self._delimiter) + 1))
        while at >= 0 and not self._delimiter.startswith(data[at:]):
            at = data.find(b"\r", at + 1)
        return at if at >= 0 else len(data)

    def _count_preamble(self, length: int) -> None:
        self._preamble += length
        if self._preamble > MAX_PREAMBLE:
            raise MultipartError("body does not begin with the boundary that Content-Type names")


def _headers(block: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    unfolded = re.sub(rb"\r\n[ \t]+", b" ", block)
    for line in unfolded.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and name.strip():
            fields.setdefault(name.strip().decode("latin-1").lower(), value.strip().decode("latin-1"))
        elif line:
            raise MultipartError("a part's header lines cannot be read")
    return fields
