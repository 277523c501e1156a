"""Person names (VR PN) for matching: case and accents do not count, and each component group is a name of its own (PS3.5 6.2.1).

A name has up to three groups, alphabetic, ideographic and phonetic, with "=" between them. The index keeps each folded in a column of its
own. A wanted name with several groups has to match group by group; one with a single group matches whichever group of the stored name.
Trailing empty components do not count, so ``SMITH^*`` finds a stored ``SMITH``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Column, ColumnElement, Table, and_, false, func, literal, or_, true

from storage.matching import Pattern, Wanted, pattern_matches, prefix_of, text_clause, values_of

GROUPS = 3
MAX_TRIGRAMS = 16
WORD_BREAKS = " -.,'"  # between the words of a component; components end with a caret


def fold_name(name: str) -> str:
    """Fold a person name (or a wildcard for one): case, accents, character widths and trailing empty parts do not count."""
    if name.isascii():
        folded = name.lower()
    else:
        parted = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
        folded = unicodedata.normalize("NFC", "".join(character for character in parted if not unicodedata.combining(character)))
    if "=" not in folded:
        return folded.strip(" ^")
    return "=".join(group.strip(" ^") for group in folded.split("=")).rstrip("=")


def name_keys(prefix: str, name: str) -> dict[str, str]:
    """The folded groups of a name, by the columns that hold them: `prefix`_key, `prefix`_ideographic_key, `prefix`_phonetic_key."""
    groups = [*fold_name(name).split("=", GROUPS - 1), "", ""]
    return {f"{prefix}_key": groups[0], f"{prefix}_ideographic_key": groups[1], f"{prefix}_phonetic_key": groups[2]}


def key_columns(table: Table, prefix: str) -> tuple[Column[Any], ...]:
    """The columns of :func:`name_keys`."""
    return tuple(table.c[name] for name in name_keys(prefix, ""))


Group: TypeAlias = tuple[Pattern, ...]  # any of them; none: everything


@dataclass(frozen=True)
class WantedName:
    """One name looked for.

    Attributes
    ----------
    groups : of the alphabetic, ideographic and phonetic group; where only one is wanted, `anywhere` says that any of them may be it
    words : looked for instead, each as the beginning of some word of the name (fuzzy matching)
    """

    groups: tuple[Group, ...]
    anywhere: bool
    words: tuple[Pattern, ...] = ()


@lru_cache(maxsize=256)
def parse_names(wanted: str, fuzzy: bool = False) -> tuple[WantedName, ...]:
    """Read a wanted name, or several with backslashes between them; none at all: everything matches."""
    found = []
    for text in wanted.split("\\"):
        folded = fold_name(text)
        groups = tuple(_group(group) for group in folded.split("=", GROUPS - 1))
        if not any(groups):
            if text.strip():
                return ()
            continue
        found.append(WantedName(groups, len(groups) == 1, _words(folded) if fuzzy else ()))
    return tuple(found)


def parse_wanted(wanted: Wanted, fuzzy: bool = False) -> tuple[WantedName, ...]:
    return parse_names("\\".join(values_of(wanted)), fuzzy)


def _group(text: str) -> Group:
    """The patterns of a group: a wildcard for further components also finds a name that has none."""
    if not text.strip("*"):
        return ()
    wildcard = "*" in text or "?" in text
    shorter = text
    while shorter.endswith("^*"):
        shorter = shorter[:-2]
    if shorter == text or not shorter.strip("*"):
        return (Pattern(text, wildcard),)
    return Pattern(f"{shorter}^*", True), Pattern(shorter, "*" in shorter or "?" in shorter)


def _words(folded: str) -> tuple[Pattern, ...]:
    parts = _break(folded.replace("=", "^")).split("^")
    return tuple(Pattern(f"*^{part.rstrip('*')}*", True) for part in parts if part.strip("*?"))


def _break(folded: str) -> str:
    for separator in WORD_BREAKS:
        folded = folded.replace(separator, "^")
    return folded


def name_matches(wanted: Wanted, value: Any, *, fuzzy: bool = False) -> bool:
    """Tell whether a person name (or one of several) is the wanted one: the predicate beside :func:`name_clause`."""
    return names_match(parse_wanted(wanted, fuzzy), value)


def names_match(names: Sequence[WantedName], value: Any) -> bool:
    """Tell whether a person name (or one of several) is any of the names of :func:`parse_wanted`, or there are none."""
    return not names or any(_matches(name, fold_name(part)) for name in names for part in values_of(value))


def _matches(wanted: WantedName, folded: str) -> bool:
    groups = (*folded.split("=", GROUPS - 1), "", "")[:GROUPS]
    if wanted.words:
        parted = [f"^{_break(group)}" for group in groups]
        return all(any(pattern_matches(pattern, group) for group in parted) for pattern in wanted.words)
    if wanted.anywhere:
        return any(group and _group_matches(wanted.groups[0], group) for group in groups)
    return all(_group_matches(patterns, group) for patterns, group in zip(wanted.groups, groups))


def _group_matches(patterns: Group, group: str) -> bool:
    return not patterns or any(pattern_matches(pattern, group) for pattern in patterns)


def name_clause(columns: Sequence[ColumnElement[Any]], wanted: Wanted, *, fuzzy: bool = False) -> ColumnElement[bool]:
    """Make the condition on the three columns of folded groups, each of which has an index."""
    names = parse_wanted(wanted, fuzzy)
    return or_(false(), *(_clause(columns, name) for name in names)) if names else true()


def _clause(columns: Sequence[ColumnElement[Any]], wanted: WantedName) -> ColumnElement[bool]:
    if wanted.words:
        return and_(true(), *(or_(*(_word_clause(column, pattern) for column in columns)) for pattern in wanted.words))
    if wanted.anywhere:
        # Said of each column, so that indexes without the empty ones serve.
        return or_(*(and_(column != "", _group_clause(column, wanted.groups[0])) for column in columns))
    return and_(true(), *(_group_clause(column, patterns) for column, patterns in zip(columns, wanted.groups)))


def _group_clause(column: ColumnElement[Any], patterns: Group) -> ColumnElement[bool]:
    return or_(*(text_clause(column, pattern) for pattern in patterns)) if patterns else true()


def _word_clause(column: ColumnElement[Any], pattern: Pattern) -> ColumnElement[bool]:
    words: ColumnElement[Any] = column
    for separator in WORD_BREAKS:
        words = func.replace(words, separator, "^")
    return text_clause(literal("^").concat(words), pattern)


def trigrams(wanted: Wanted, *, fuzzy: bool = False) -> tuple[tuple[str, ...], ...]:
    """Three characters in a row that a stored name has to hold: all of a tuple, for any of the tuples.

    None at all where some name wanted has fewer, or begins with so many that the index of its column is the better way.
    """
    found = tuple(_trigrams(name) for name in parse_wanted(wanted, fuzzy))
    return found if all(found) else ()


def _trigrams(wanted: WantedName) -> tuple[str, ...]:
    groups = [patterns[-1] for patterns in wanted.groups if patterns]
    if not wanted.words and any(prefix_of(pattern) for pattern in groups):
        return ()
    pieces = [piece for pattern in wanted.words or groups for piece in pattern.text.strip("^").replace("?", "*").split("*")]
    every = [piece.strip("^")[at : at + 3] for piece in pieces for at in range(len(piece.strip("^")) - 2)]
    return tuple(dict.fromkeys(every))[:MAX_TRIGRAMS]
