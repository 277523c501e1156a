"""The data set that a word on the command line names, or a TOML table in a file.

    pairs:DIR?images=...&masks=...&image_suffix=...&mask_suffix=...&classes=a,b&name=REGEX
    images:DIR?images=...&image_suffix=...&name=REGEX
    table:FILE.csv?images=...&image=...&labels=...&subject=...&mask=...&age=...&sex=...&view=...&site=...&separator=...&classes=...
    voc:DIR?classes=...&set=train&annotations=...&images=...&clip=true
    mimic:DIR?clinical=DIR&labels=chexpert|negbio|icd|none&codes=name:prefix:prefix,...&uncertain=...&views=PA,AP&classes=...
    manifest:FILE.jsonl
    FILE.toml                     [data]  kind = "pairs", path = "...", and the same options

Of a word, everything after the first ``?`` are options, joined by ``&``; ``%26`` and ``%25`` stand for ``&`` and ``%``.
Paths in a TOML file are relative to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import unquote

from models.datasets.collection import Collection, DataSetRefused
from models.datasets.manifest import read_manifest
from models.datasets.mimic import Labels, read_mimic
from models.datasets.pairs import Pairs, read_pairs
from models.datasets.table import ATTRIBUTES, Columns, Uncertain, read_table
from models.datasets.voc import read_voc

Options = Mapping[str, str]


def open_dataset(word: str) -> Collection:
    """Read the data set that a word names.

    Raises
    ------
    DataSetRefused
        The word names no reader, an option is unknown, or the data cannot be used.
    """
    kind, path, options = _table(Path(word)) if word.lower().endswith(".toml") else _word(word)
    if kind not in READERS:
        raise DataSetRefused(word, f"'{kind}' is no kind of data set; there are {', '.join(READERS)}, and TOML files")
    known, read = READERS[kind]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known) or 'none'}"
            raise DataSetRefused(word, f"{kind} has no option '{name}'; {hint}")
    return read(path, options)


def _word(word: str) -> tuple[str, Path, Options]:
    address, _, query = word.partition("?")
    kind, colon, path = address.partition(":")
    if not colon:
        found = Path(address)
        if found.suffix == ".jsonl":
            return "manifest", found, {}
        raise DataSetRefused(word, f"it names no data set: write KIND:PATH, where KIND is one of {', '.join(READERS)}")
    pairs = [each.partition("=") for each in query.split("&") if each]
    return kind, Path(path).expanduser(), {unquote(name): unquote(value) for name, _, value in pairs}


def _table(path: Path) -> tuple[str, Path, Options]:
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["data"]
        kind, where = str(table.pop("kind")), path.parent / str(table.pop("path"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataSetRefused(path, f"it cannot be read as TOML ({type(error).__name__})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataSetRefused(path, "it needs a table [data] with kind and path") from error
    return kind, where, {name: _text(value) for name, value in table.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(each) for each in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def words(text: str | None) -> tuple[str, ...]:
    """A list with commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _pairs(path: Path, options: Options) -> Collection:
    return read_pairs(path, _layout(options, labelled=True), name=options.get("title", ""))


def _images(path: Path, options: Options) -> Collection:
    return read_pairs(path, _layout(options, labelled=False), name=options.get("title", ""))


def _layout(options: Options, *, labelled: bool) -> Pairs:
    return Pairs(
        images=options.get("images", ""),
        masks=options.get("masks", ""),
        image_suffix=options.get("image_suffix", ""),
        mask_suffix=options.get("mask_suffix", ""),
        classes=words(options.get("classes")),
        name=options.get("name", ""),
        labelled=labelled,
    )


def _table_of_images(path: Path, options: Options) -> Collection:
    columns = Columns(
        images=options.get("images", ""),
        image=options.get("image", ""),
        labels=words(options.get("labels")),
        subject=options.get("subject", ""),
        mask=options.get("mask", ""),
        attributes={name: options[name] for name in ATTRIBUTES if name in options},
        separator=options.get("separator", "|") or "|",
        classes=words(options.get("classes")),
        uncertain=uncertain(options, path),
    )
    return read_table(path, columns, name=options.get("title", ""))


def uncertain(options: Options, path: Path) -> Uncertain:
    """What is said of uncertain labels."""
    said = options.get("uncertain", "ignore")
    for each in get_args(Uncertain):
        if said == each:
            return cast(Uncertain, each)
    raise DataSetRefused(path, f"uncertain is {', '.join(get_args(Uncertain))}; not '{said}'")


def _voc(path: Path, options: Options) -> Collection:
    return read_voc(
        path,
        classes=words(options.get("classes")),
        only=options.get("set", ""),
        annotations=options.get("annotations", "Annotations"),
        images=options.get("images", "JPEGImages"),
        clip=options.get("clip", "false").lower() in ("true", "yes", "1"),
        name=options.get("title", ""),
    )


def _mimic(path: Path, options: Options) -> Collection:
    said = options.get("labels", "chexpert")
    table = next((each for each in get_args(Labels) if each == said), None)
    if table is None:
        raise DataSetRefused(path, f"labels is {', '.join(get_args(Labels))}; not '{said}'")
    codes = {name: tuple(prefixes.split(":")) for name, _, prefixes in (each.partition(":") for each in words(options.get("codes")))}
    return read_mimic(
        path,
        clinical=path / options["clinical"] if options.get("clinical") else None,
        labels=cast(Labels, table),
        classes=words(options.get("classes")),
        codes=codes,
        uncertain=uncertain(options, path),
        views=words(options.get("views")),
        name=options.get("title", "") or "MIMIC",
    )


READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Path, Options], Collection]]] = {
    "pairs": (("images", "masks", "image_suffix", "mask_suffix", "classes", "name", "title"), _pairs),
    "images": (("images", "image_suffix", "name", "title"), _images),
    "table": (
        ("images", "image", "labels", "subject", "mask", *ATTRIBUTES, "separator", "classes", "uncertain", "title"),
        _table_of_images,
    ),
    "voc": (("classes", "set", "annotations", "images", "clip", "title"), _voc),
    "mimic": (("clinical", "labels", "codes", "uncertain", "views", "classes", "title"), _mimic),
    "manifest": ((), lambda path, options: read_manifest(path)),
}
