"""Which subject goes to which part: iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), over subjects.

Every subject bears tags: its labels, the structures in its masks, the band of a number. The rarest tag that
is left is dealt out first, each subject to the part that is furthest from its share of that tag; ties go to
the part that is furthest from its number of subjects, then to the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence


def deal(tags: Mapping[str, frozenset[str]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Subject to part.

    Parameters
    ----------
    tags
        By subject.
    shares
        By part, of all subjects; they add up to 1.
    """
    chance = random.Random(seed)
    left = sorted(tags)
    chance.shuffle(left)
    rooms = _rooms(len(left), shares)
    wanted = {part: Counter({tag: share * count for tag, count in _counts(tags, left).items()}) for part, share in shares.items()}
    dealt: dict[str, str] = {}
    while left:
        rarest = _rarest(tags, left)
        group = [subject for subject in left if rarest is None or rarest in tags[subject]]
        for subject in sorted(group, key=lambda each: -len(tags[each])):
            part = _neediest(rarest, wanted, rooms, chance)
            dealt[subject] = part
            rooms[part] -= 1
            wanted[part].subtract(dict.fromkeys(tags[subject], 1.0))
        left = [subject for subject in left if subject not in dealt]
    return dealt


def _rooms(subjects: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many subjects each part takes: the shares by largest remainder, at least one each where there are enough."""
    exact = {part: subjects * share for part, share in shares.items()}
    rooms = {part: int(value) for part, value in exact.items()}
    for part in sorted(exact, key=lambda each: rooms[each] - exact[each])[: subjects - sum(rooms.values())]:
        rooms[part] += 1
    for part in rooms:
        largest = max(rooms, key=lambda each: rooms[each])
        if rooms[part] == 0 and rooms[largest] > 1:
            rooms[part], rooms[largest] = 1, rooms[largest] - 1
    return rooms


def _counts(tags: Mapping[str, frozenset[str]], subjects: Sequence[str]) -> Counter[str]:
    return Counter(tag for subject in subjects for tag in tags[subject])


def _rarest(tags: Mapping[str, frozenset[str]], left: Sequence[str]) -> str | None:
    counts = _counts(tags, left)
    return min(counts, key=lambda tag: (counts[tag], tag)) if counts else None


def _neediest(tag: str | None, wanted: Mapping[str, Mapping[str, float]], rooms: Mapping[str, int], chance: random.Random) -> str:
    free = [part for part in rooms if rooms[part] > 0]
    order = {part: chance.random() for part in free}
    return max(free, key=lambda part: (wanted[part].get(tag, 0.0) if tag else 0.0, rooms[part], order[part]))
