"""multipart/related as it comes: however the body is cut, the parts are the same; what is no multipart is refused in one line."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.web.dicomweb.multipart_reader import (
    MAX_HEADERS,
    MAX_PREAMBLE,
    MultipartError,
    MultipartReader,
    PartBegin,
    PartData,
    PartEnd,
    parse_media_type,
)

Parts = list[tuple[dict[str, str], bytes]]


def read(body: bytes, cuts: Sequence[int] = (), *, boundary: str = "B") -> Parts:
    """The parts of a body that arrives cut at these places."""
    reader, parts = MultipartReader(boundary), []
    edges = [0, *sorted({min(cut, len(body)) for cut in cuts}), len(body)]
    headers: dict[str, str] | None = None
    data = b""
    for start, end in itertools.pairwise(edges):
        for event in reader.feed(body[start:end]):
            if isinstance(event, PartBegin):
                assert headers is None
                headers, data = dict(event.headers), b""
            elif isinstance(event, PartData):
                assert headers is not None
                assert len(event.data)
                data += event.data
            else:
                assert isinstance(event, PartEnd)
                assert headers is not None
                parts.append((headers, data))
                headers = None
    reader.close()
    return parts


def body_of(parts: Sequence[tuple[str, bytes]], boundary: str = "B", padding: str = "") -> bytes:
    lines = b"".join(f"\r\n--{boundary}{padding}\r\n{head}\r\n".encode("latin-1") + data for head, data in parts)
    return lines[2:] + f"\r\n--{boundary}--\r\n".encode("latin-1")


TRICKY = [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n-", b"\r\n--", b"\r\n--Bx", b"--B", b"\r\n--B \t", b"\0"]
PIECES = [b"\r\n--B", b"--B", b"--", b"\r\n", b"\r\n\r\n", b" ", b"a: b", b"x", b"B", b"\r", b"\n", b"-"]
CONTENT = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(TRICKY)), max_size=12).map(b"".join)
BOUNDARIES = st.text("ABab01'()+_,./:=?- ", min_size=1, max_size=70).filter(lambda text: not text.endswith(" "))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.lists(CONTENT, max_size=4), BOUNDARIES, st.sampled_from(["", " ", "\t  "]))
def test_every_split_gives_the_same_parts(data: st.DataObject, contents: list[bytes], boundary: str, padding: str) -> None:
    contents = [content.replace(b"\r\n--" + boundary.encode(), b"") for content in contents]
    # No line of a part may begin with the boundary (RFC 2046 5.1.1), the first not either: that would be an empty part and the next one.
    contents = [content for content in contents if (b"\r\n--" + boundary.encode()) not in b"\r\n" + content + b"\r\n"]
    parts = [(f"Content-Type: application/dicom\r\nX-Number: {number}\r\n", content) for number, content in enumerate(contents)]
    body = body_of(parts, boundary, padding)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=30))
    expected = [({"content-type": "application/dicom", "x-number": str(number)}, content) for number, content in enumerate(contents)]
    if contents:
        assert read(body, cuts, boundary=boundary) == expected
        assert read(body, range(len(body)), boundary=boundary) == expected
    else:
        assert read(b"--" + boundary.encode() + b"--", cuts, boundary=boundary) == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.data())
def test_any_body_is_read_alike_or_refused_alike(pieces: list[bytes], data: st.DataObject) -> None:
    body = b"".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=10))

    def outcome(where: Sequence[int]) -> object:
        try:
            return read(body, where)
        except MultipartError as error:
            return str(error)

    assert outcome(()) == outcome(cuts) == outcome(range(len(body)))


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"--B\r\n\r\n\r\n--B--", [({}, b"")]),
        (b"--B\r\nA: 1\r\n\r\n--B--", [({"a": "1"}, b"")]),
        (b"--B\r\n\r\n--B--", [({}, b"")]),
        (b"--B\r\n\r\nx\r\n--B\r\n\r\ny\r\n--B--epilogue\r\n--B\r\n\r\nz", [({}, b"x"), ({}, b"y")]),
        (b"preamble\r\nmore\r\n--B\r\n\r\nx\r\n--B--", [({}, b"x")]),
        (b"--B\r\nA: 1\r\n 2\r\na: 3\r\n\r\n\r\n\r\n--B--", [({"a": "1 2"}, b"\r\n")]),
        (b"--B\r\n\r\nx\r\n--Bee\r\n--B" + b" " * 300 + b"\r\n--B--", [({}, b"x\r\n--Bee\r\n--B" + b" " * 300)]),
    ],
)
def test_forms_that_rfc_2046_allows(body: bytes, parts: Parts) -> None:
    assert read(body) == parts
    assert read(body, range(len(body))) == parts


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "before its closing boundary"),
        (b"--B\r\n\r\nx", "before its closing boundary"),
        (b"--B\r\n\r\nx\r\n--B", "before its closing boundary"),
        (b"--B\r\nno colon\r\n\r\nx\r\n--B--", "header lines cannot be read"),
        (b"--B\r\nA: " + b"x" * MAX_HEADERS + b"\r\n\r\n\r\n--B--", "too long"),
        (b"--B\r\nA: " + b"x" * 2 * MAX_HEADERS, "too long"),
        (b"x" * (MAX_PREAMBLE + 1), "does not begin with the boundary"),
    ],
)
def test_what_is_no_multipart_is_refused(body: bytes, says: str) -> None:
    for cuts in ((), range(0, len(body), 7)):
        with pytest.raises(MultipartError, match=says):
            read(body, cuts)


@pytest.mark.parametrize("boundary", ["", "x" * 201, "ends with blank ", "semi;colon", "new\nline", "ümlaut"])
def test_a_boundary_that_rfc_2046_does_not_allow_is_refused(boundary: str) -> None:
    with pytest.raises(MultipartError, match="boundary"):
        MultipartReader(boundary)


@pytest.mark.parametrize(
    ("value", "kind", "parameters"),
    [
        ('multipart/related; type="application/dicom"; boundary=a', "multipart/related", {"type": "application/dicom", "boundary": "a"}),
        ("Multipart/Related;type=application/dicom;BOUNDARY=a=b", "multipart/related", {"type": "application/dicom", "boundary": "a=b"}),
        (r'multipart/related; boundary="a \"b\"; c" ;', "multipart/related", {"boundary": 'a "b"; c'}),
        ("application/dicom", "application/dicom", {}),
        ("application/dicom; transfer-syntax=*", "application/dicom", {"transfer-syntax": "*"}),
    ],
)
def test_media_types(value: str, kind: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(value) == (kind, parameters)


@pytest.mark.parametrize("value", ["", "multipart", "multipart/related; boundary", "; boundary=a", "a/b; =c"])
def test_what_is_no_media_type_is_refused(value: str) -> None:
    with pytest.raises(MultipartError):
        parse_media_type(value)


def test_a_large_part_is_read_without_looking_at_each_byte() -> None:
    piece = bytes(range(256)) * 1024
    reader = MultipartReader("a-boundary-of-usual-length-0123456789")
    list(reader.feed(b"--a-boundary-of-usual-length-0123456789\r\n\r\n"))
    began, got = time.process_time(), 0
    for _ in range(400):
        got += sum(len(event.data) for event in reader.feed(piece) if isinstance(event, PartData))
    assert got > 399 * len(piece)
    assert time.process_time() - began < 2.0  # 100 MB; a look at each byte in Python takes ten times that
