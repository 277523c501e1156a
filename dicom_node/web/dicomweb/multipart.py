"""Writing multipart/related (RFC 2387): the lines around parts, whose bytes come from elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Mapping


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
