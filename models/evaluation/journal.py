"""What a long evaluation has measured so far, a line an item: after a kill the next run of the same goes on from there."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from models.datasets.protocol import Box, Skipped
from models.evaluation.gallery import Picture
from models.evaluation.protocol import Case, ScoredBox


@dataclass(frozen=True)
class Seen:
    """One item: measured or skipped. ``displaced``: its mask states another place than its image."""

    item: str
    case: Case | None = None
    skipped: Skipped | None = None
    unit: str = "mm"
    dimensions: int = 0
    displaced: bool = False
    picture: Picture | None = None


class Journal:
    """A file of lines beside the report, for one question: ``key`` says which (bundle, items, classes).

    Parameters
    ----------
    folder
        Where the file lies; None keeps nothing.
    """

    def __init__(self, folder: Path | None, *key: str) -> None:
        digest = hashlib.sha256("\n".join(("evaluation 1", *key)).encode()).hexdigest()
        self._path = None if folder is None else folder / f".measured-{digest[:16]}.jsonl"
        self._stream: TextIO | None = None

    def known(self) -> dict[str, Seen]:
        """What an earlier run has left; a line that was torn is measured again."""
        if self._path is None or not self._path.is_file():
            return {}
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        return {seen.item: seen for line in lines for seen in _read(line)}

    def keep(self, seen: Seen) -> None:
        """Add an item."""
        if self._path is None:
            return
        if self._stream is None:
            self._stream = self._path.open("a", encoding="utf-8")
            self._stream.write("\n")  # whatever was torn ends here
        self._stream.write(json.dumps(asdict(seen), default=_bytes) + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def clear(folder: Path) -> None:
    """Remove what is kept in a folder: its report is written."""
    for path in folder.glob(".measured-*.jsonl"):
        path.unlink(missing_ok=True)


def _bytes(value: Any) -> str:
    return base64.b64encode(value).decode()


def _read(line: str) -> Iterator[Seen]:
    try:
        content = json.loads(line)
        case, skipped, picture = content.pop("case"), content.pop("skipped"), content.pop("picture")
        yield Seen(
            **content,
            case=None if case is None else _case(case),
            skipped=None if skipped is None else Skipped(**skipped),
            picture=None if picture is None else Picture(**{**picture, "png": base64.b64decode(picture["png"])}),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return


def _case(content: Mapping[str, Any]) -> Case:
    boxes = tuple(ScoredBox(**box) for box in content["boxes"])
    return Case(**{**content, "boxes": boxes, "truth_boxes": tuple(Box(**box) for box in content["truth_boxes"])})
