"""Kinds of values in the configuration file: durations, sizes, secrets, AE titles."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

LEAST_SECRET = 16
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def duration(value: Any) -> float:
    """Seconds of ``"90s"``, ``"5m"``, ``"1h"`` or a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", value) if isinstance(value, str) else None
    if found is None or found[2] not in _SECONDS:
        raise ValueError(f"a duration such as '60s', '5m' or '1h' is needed (units: {', '.join(_SECONDS)})")
    return float(found[1]) * _SECONDS[found[2]]


def size(value: Any) -> int:
    """Bytes of ``"5GiB"``, ``"500MB"`` or a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value) if isinstance(value, str) else None
    if found is None or found[2] not in _BYTES:
        raise ValueError(f"a size such as '5GiB' or '500MB' is needed (units: {', '.join(_BYTES)})")
    return int(float(found[1]) * _BYTES[found[2]])


def secret(value: Any) -> Any:
    """A text as it stands, or from ``{ env = "NAME" }`` or ``{ file = "PATH" }``."""
    if not isinstance(value, dict):
        return value
    if set(value) == {"env"}:
        if value["env"] not in os.environ:
            raise ValueError(f"the environment variable {value['env']} is not set")
        return os.environ[value["env"]]
    if set(value) == {"file"}:
        try:
            return Path(value["file"]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"the file {value['file']} cannot be read: {error.strerror}") from error
    raise ValueError('a secret is a text, { env = "NAME" } or { file = "PATH" }')


def stored_secret(value: Any) -> str:
    """What ``{ env = "NAME" }`` or ``{ file = "PATH" }`` holds, if it is long enough; a text as it stands is refused."""
    if not isinstance(value, dict):
        raise ValueError('it must not stand here: { env = "NAME" } or { file = "PATH" }')
    found = str(secret(value))
    if len(found) < LEAST_SECRET:
        raise ValueError(f"at least {LEAST_SECRET} characters are needed")
    return found


def network(value: str) -> str:
    """An address or a network: ``"10.1.2.3"``, ``"10.0.0.0/8"``, ``"fd00::/8"``."""
    try:
        ip_network(value, strict=False)
    except ValueError:
        raise ValueError("an address such as '10.1.2.3' or a network such as '10.0.0.0/8' is needed; names are not looked up") from None
    return value


def uid(value: str) -> str:
    """A UID (PS3.5 9.1)."""
    if len(value) > 64 or not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", value):
        raise ValueError("a UID such as '1.2.840.10008.1.1' is needed: at most 64 digits and dots")
    return value


def database_url(value: str) -> str:
    """The URL of a database that this program can use; the message doesn't quote it, since it may hold a password."""
    if not re.match(r"(sqlite|postgresql(\+psycopg)?)://.", value):
        raise ValueError("'sqlite:///PATH' or 'postgresql://USER@HOST/NAME' is needed")
    return value


def attribute(value: str) -> str:
    """The keyword of a DICOM attribute (PS3.6), as rules match on it."""
    from pydicom.datadict import keyword_dict

    if value not in keyword_dict:
        near = get_close_matches(value, keyword_dict, n=1)
        raise ValueError(f"no DICOM attribute is called '{value}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return value


def not_empty(value: Any) -> Any:
    """A value to match by; an empty list would match nothing."""
    if value == []:
        raise ValueError("an empty list matches nothing: name the values that fit, or leave the attribute out")
    return value


def service_root(value: str) -> str:
    """The base URL of DICOMweb services; no secret, query or fragment belongs into it."""
    with suppress(ValueError):
        parts = urlsplit(value)
        beyond = parts.query or parts.fragment or parts.username or parts.password
        plain = value.isascii() and value.isprintable() and " " not in value
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and plain and not beyond:
            return value.rstrip("/")
    raise ValueError("a URL such as 'https://pacs.example/dicom-web' is needed, without user, password or query")


Duration = Annotated[float, BeforeValidator(duration), Field(ge=0)]
Size = Annotated[int, BeforeValidator(size), Field(ge=0)]
Secret = Annotated[str, BeforeValidator(secret)]
DatabaseUrl = Annotated[Secret, AfterValidator(database_url)]
Network = Annotated[str, AfterValidator(network)]
ServiceRoot = Annotated[str, AfterValidator(service_root)]
Uid = Annotated[str, AfterValidator(uid)]
Attribute = Annotated[str, AfterValidator(attribute)]
StoredSecret = Annotated[str, BeforeValidator(stored_secret)]
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]*$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda:\d+)$")]
MatchValue = Annotated[str | int | float | tuple[str | int | float, ...], BeforeValidator(not_empty)]
Port = Annotated[int, Field(ge=0, le=65535)]

# What a value must look like, in words, by the pattern that says it.
FORMS = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "a name of 1 to 64 letters, digits, '-' and '_' is needed, that begins with a letter or a digit",
    r"^(cpu|cuda:\d+)$": "'cpu', or 'cuda:0' for the first GPU and so on, is needed",
    r"^[\x20-\x5b\x5d-\x7e]*[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]*$": "an AE title of ASCII characters without a backslash is needed",
}
