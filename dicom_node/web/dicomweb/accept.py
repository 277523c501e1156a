"""Which representation a client is given (PS3.18 8.3.3, 8.7): its Accept header and ``accept`` parameter against what a resource offers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from dicom_node.web.dicomweb.errors import BadRequest, NotAcceptable

MAX_ACCEPT: Final = 4096  # characters
MAX_RANGES: Final = 64

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE: Final = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*")
# Values may stand without quotes although they hold a slash: viewers send type=application/dicom.
_PARAMETER: Final = re.compile(rf';\s*({_TOKEN})\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*)\s*')
_UID: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Offer:
    """A representation that a resource has.

    Attributes
    ----------
    media_type : its type, of one part where `multipart`
    transfer_syntax : of DICOM instances and of compressed pixels; "" where it has none
    multipart : sent as multipart/related with parts of that type
    """

    media_type: str
    transfer_syntax: str = ""
    multipart: bool = False


@dataclass(frozen=True)
class MediaRange:
    """One thing that a client takes. ``transfer_syntax`` is "" where it names none, "*" for any."""

    media_type: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    quality: float = 1.0
    multipart: bool | None = None  # None: either, for */*

    @property
    def transfer_syntax(self) -> str:
        return self.parameters.get("transfer-syntax", "")

    @property
    def specificity(self) -> int:
        if self.media_type == "*/*":
            return 0
        return 1 if self.media_type.endswith("/*") else 2 + bool(self.transfer_syntax not in ("", "*"))

    def takes(self, offer: Offer) -> bool:
        """Whether it is this; which transfer syntax it gets is for those to say that offer one."""
        if self.multipart is not None and self.multipart != offer.multipart:
            return False
        main, _, kind = self.media_type.partition("/")
        offered, _, offered_kind = offer.media_type.partition("/")
        if main not in ("*", offered) or kind not in ("*", offered_kind):
            return False
        return not offer.transfer_syntax or self.transfer_syntax in ("", "*", offer.transfer_syntax)


def accepted(request: Request) -> list[MediaRange]:
    """What the client takes, best first. The query parameter wins over the header; without either it takes everything.

    Raises
    ------
    BadRequest
        It cannot be read.
    """
    named = request.query_params.getlist("accept")
    return ranges_of(",".join(named) if named else ",".join(request.headers.getlist("accept")))


def ranges_of(text: str) -> list[MediaRange]:
    """The media ranges of an Accept header's text, best first; raises BadRequest."""
    if len(text) > MAX_ACCEPT:
        raise BadRequest(f"Accept is longer than {MAX_ACCEPT} characters")
    ranges = list(_ranges(text))
    if len(ranges) > MAX_RANGES:
        raise BadRequest(f"Accept names more than {MAX_RANGES} media types")
    # "+" in a query stands for a space: application/dicom json is what became of application/dicom+json.
    return sorted(ranges or [MediaRange("*/*")], key=lambda each: (-each.quality, -each.specificity))


def _ranges(text: str) -> Iterator[MediaRange]:
    position = 0
    text = text.strip()
    while position < len(text):
        if text[position] in ", \t":
            position += 1
            continue
        found = _RANGE.match(text, position)
        if found is None:
            raise BadRequest("Accept holds something that is no media type")
        position = found.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(text, position)) is not None:
            value = parameter[2]
            if value.startswith('"'):
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            parameters.setdefault(parameter[1].lower(), value)
            position = parameter.end()
        if position < len(text) and text[position] != ",":
            raise BadRequest("Accept holds a parameter that cannot be read")
        yield _range(f"{found[1]}/{found[2]}".lower(), parameters)


def _range(media_type: str, parameters: dict[str, str]) -> MediaRange:
    quality = _quality(parameters.pop("q", "1"))
    syntax = parameters.get("transfer-syntax", "")
    if syntax not in ("", "*") and not _UID.fullmatch(syntax):
        raise BadRequest("transfer-syntax is neither a UID nor *")
    if media_type == "multipart/related":
        inner = parameters.pop("type", "*/*").lower()
        if inner.count("/") != 1:
            raise BadRequest("type of multipart/related is no media type")
        return MediaRange(inner, parameters, quality, multipart=True)
    if media_type in ("multipart/*",):
        return MediaRange("*/*", parameters, quality, multipart=True)
    return MediaRange(media_type, parameters, quality, multipart=None if media_type == "*/*" else False)


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadRequest("q is not between 0 and 1")
    return value


def choose(ranges: Sequence[MediaRange], offers: Sequence[Offer], what: str) -> Offer:
    """The offer that the client likes best; among equals the one offered first.

    Raises
    ------
    NotAcceptable
        It takes none of them.
    """
    best: tuple[float, int, int] | None = None
    chosen: Offer | None = None
    for number, offer in enumerate(offers):
        fitting = [each for each in ranges if each.takes(offer)]
        if not fitting:
            continue
        closest = max(fitting, key=lambda each: each.specificity)
        if closest.quality <= 0:
            continue
        rank = (closest.quality, closest.specificity, -number)
        if best is None or rank > best:
            best, chosen = rank, offer
    if chosen is None:
        raise NotAcceptable(f"{what} is available as {', '.join(dict.fromkeys(map(_name, offers)))}")
    return chosen


def _name(offer: Offer) -> str:
    syntax = f"; transfer-syntax={offer.transfer_syntax}" if offer.transfer_syntax else ""
    if offer.multipart:
        return f'multipart/related; type="{offer.media_type}"{syntax}'
    return f"{offer.media_type}{syntax}"
