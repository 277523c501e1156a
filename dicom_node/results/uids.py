"""UIDs of results, derived and never drawn: the same run has the same UIDs wherever it is encoded.

Form 2.25.<integer> of PS3.5 section B.2, from the first 128 bits of a SHA-256, marked as a UUID of
version 8 (RFC 9562: "custom").
"""

from __future__ import annotations

import hashlib
import uuid


def derived_uid(purpose: str, *parts: str) -> str:
    """A UID that is a function of its arguments alone; `purpose` keeps different uses apart."""
    digest = hashlib.sha256("\0".join(("dicom-node", purpose, *parts)).encode()).digest()
    value = bytearray(digest[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(value)).int}"


def device_uid(archive_id: str, release_digest: str) -> str:
    """Device UID of one release on one archive; another model release is another device."""
    return derived_uid("device", archive_id, release_digest)


def series_uid(study_uid: str, release_digest: str, modality: str) -> str:
    """One series per study, release and modality (a SEG and an SR cannot share one)."""
    return derived_uid("series", study_uid, release_digest, modality)


def instance_uid(run_key: str, kind: str) -> str:
    return derived_uid("instance", run_key, kind)


def tracking_uid(study_uid: str, bundle: str, finding: str) -> str:
    """Tracking UID (0062,0021) / 112040: stays the same in SEG, SR and every rerun."""
    return derived_uid("tracking", study_uid, bundle, finding)


def dimension_organization_uid(run_key: str, kind: str) -> str:
    return derived_uid("dimension", run_key, kind)


def series_number(source_number: int | None, release_digest: str, modality: str) -> int:
    """A number that sorts behind the source series and differs between releases and modalities; other forms come behind these."""
    spread = int(hashlib.sha256(release_digest.encode()).hexdigest()[:8], 16) % 45
    base = abs(source_number or 0) % 20_000_000
    if modality not in ("SEG", "SR"):
        return base * 100 + 91 + int(hashlib.sha256(modality.encode()).hexdigest()[:8], 16) % 9
    return base * 100 + 1 + 2 * spread + (modality == "SR")
