"""The language of a page: whose words it uses, and how it writes times, durations and sizes.

English is the message id; the others lie as gettext catalogues in ``locale/<language>/*.po``, one file for each page, read as they are.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

from babel import Locale
from babel.dates import format_date, format_datetime, format_timedelta
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from starlette.requests import Request

COOKIE: Final = "language"
ENGLISH: Final = "en"
LANGUAGES: Final = {ENGLISH: "English", "zh": "中文"}  # each in its own words
LOCALES: Final = {ENGLISH: "en_GB", "zh": "zh_Hans_CN"}
FOLDER: Final = Path(__file__).parent / "locale"
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True)
class Language:
    """One language: its catalogue, and how its readers write what is counted and timed."""

    code: str
    messages: dict[str, str | tuple[str, ...]]

    @property
    def locale(self) -> Locale:
        """As Babel knows it."""
        return _locale(self.code)

    @property
    def tag(self) -> str:
        """For the ``lang`` attribute (BCP 47)."""
        return "zh-Hans" if self.code == "zh" else self.code

    def gettext(self, message: str) -> str:
        """A text in this language; as it stands where the catalogue lacks it."""
        found = self.messages.get(message, message)
        return found if isinstance(found, str) else found[0]

    def ngettext(self, one: str, many: str, count: int) -> str:
        """A text that counts."""
        found = self.messages.get(one)
        if isinstance(found, tuple):
            return found[0 if count == 1 else -1]  # Chinese has one form only
        return one if count == 1 else many

    def moment(self, at: float | None) -> str:
        """A time as people read it: local, to the second, with its zone."""
        if at is None:
            return ""
        text = format_datetime(datetime.fromtimestamp(at), "yyyy-MM-dd HH:mm:ss", locale=self.locale)
        return f"{text} {time.strftime('%Z', time.localtime(at))}"

    def clock(self, at: float | None) -> str:
        """The same without its date, where that is today's."""
        if at is None:
            return ""
        then = datetime.fromtimestamp(at)
        pattern = "HH:mm:ss" if then.date() == date.today() else "yyyy-MM-dd HH:mm"
        return str(format_datetime(then, pattern, locale=self.locale))

    def duration(self, seconds: float | None) -> str:
        """How long, in its largest unit."""
        if seconds is None:
            return ""
        return str(format_timedelta(timedelta(seconds=max(seconds, 1.0)), threshold=1.2, format="short", locale=self.locale))

    def dicom_date(self, value: str) -> str:
        """A DICOM date (DA) as people read it; as received where it is none."""
        try:
            return str(format_date(datetime.strptime(value[:8], "%Y%m%d"), "yyyy-MM-dd", locale=self.locale))
        except ValueError:
            return value

    def number(self, value: float, digits: int = 1) -> str:
        """A number with at most so many digits after the point."""
        return str(format_decimal(round(value, digits), locale=self.locale))

    def size(self, count: float) -> str:
        """Bytes, in binary units."""
        unit = 0
        while count >= 1024 and unit < len(UNITS) - 1:
            count, unit = count / 1024, unit + 1
        return f"{self.number(count, 1 if unit else 0)} {UNITS[unit]}"


@functools.cache
def language(code: str) -> Language:
    """A language with its catalogue, read once."""
    messages: dict[str, str | tuple[str, ...]] = {}
    for file in sorted((FOLDER / code).glob("*.po")):
        with file.open("rb") as stream:
            for message in read_po(stream, locale=_locale(code)):
                if message.id and message.string:
                    one = message.id if isinstance(message.id, str) else message.id[0]
                    messages[one] = message.string if isinstance(message.string, str) else tuple(message.string)
    return Language(code, messages)


@functools.cache
def _locale(code: str) -> Locale:
    return Locale.parse(LOCALES[code])


def language_of(request: Request, kept: str | None = None) -> Language:
    """The language a page is written in: the account's, else the cookie's, else the first the browser asks for that there is."""
    for code in (kept, request.cookies.get(COOKIE), *accepted(request.headers.get("accept-language", ""))):
        if code in LANGUAGES:
            return language(code)
    return language(ENGLISH)


def accepted(header: str) -> Sequence[str]:
    """The primary language codes of Accept-Language, the most wanted first (RFC 9110 12.5.4)."""
    weighted = []
    for place, item in enumerate(header[:1000].split(",")):
        tag, _, parameters = item.strip().partition(";")
        _, _, weight = parameters.strip().partition("q=")
        try:
            quality = float(weight) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:
            weighted.append((-quality, place, tag.lower().partition("-")[0]))
    return [code for _, _, code in sorted(weighted)]
