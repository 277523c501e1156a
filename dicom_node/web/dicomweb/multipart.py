"""Writing multipart/related (RFC 2387) as a stream whose length is known before its first byte, where the parts' are."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence


class MultipartWriter:
    """The lines around the parts of one body.

    Parameters
    ----------
    media_type
        Of its parts.
    """

    def __init__(self, media_type: str) -> None:
        self.boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self.boundary}'
        self.end = f"\r\n--{self.boundary}--\r\n".encode()

    def head(self, headers: Mapping[str, str]) -> bytes:
        """What comes before a part's bytes."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"\r\n--{self.boundary}\r\n{lines}\r\n".encode()

    def length(self, heads: Sequence[bytes], contents: Sequence[int]) -> int:
        """Bytes of the whole body."""
        return sum(map(len, heads)) + sum(contents) + len(self.end)
