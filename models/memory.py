"""How much memory a network takes, from the runs that were measured, and on which rung of the ladder a volume is begun because of it.

A measurement is what one application of a network took at its peak beside what was there before, for so many voxels of its preprocessed
input. Of measurements on one rung a line is made: ``bytes = base + slope * voxels`` by least squares, raised until none lies above it;
where all are of about one size, a proportion (``base`` is 0). It is believed up to twice the largest volume that was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

BELIEVED = 2.0  # times the largest volume measured
SPREAD = 1.5  # the largest volume measured to the smallest, from where a line is more than a proportion
RESERVE = 1.1  # times an estimate must be free
ALIKE = 0.8  # of the voxels of a volume that did not fit: from there on another one will not fit either
MORE = 1.25  # times what did not suffice: with so much it is tried again
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True)
class Use:
    """One application of a network. ``taken``: bytes at its peak, 0 where nothing could be measured; of one that did not fit, the bytes
    that were free and did not suffice."""

    device: str  # cpu or cuda
    rung: str
    voxels: int
    taken: int
    fitted: bool = True


@dataclass(frozen=True)
class Line:
    """``bytes = base + slope * voxels``, by so many ``sizes`` of volume up to ``largest`` voxels; ``proportional``: all of about one."""

    base: float
    slope: float
    sizes: int
    largest: int
    proportional: bool

    def at(self, voxels: int) -> int:
        return max(0, round(self.base + self.slope * voxels))


@dataclass(frozen=True)
class Estimate:
    """The bytes that a volume needs. ``sure``: by volumes of several sizes, or it did not fit before; ``more``: at least so many."""

    needed: int
    sure: bool
    by: int  # how many sizes of volume it is known from
    more: bool = False

    def __str__(self) -> str:
        known = f"did not fit into {told(round(self.needed / MORE))} before" if self.more else f"about {told(self.needed)}"
        return known if self.more else f"{known} by measurements of {self.by} {'size' if self.by == 1 else 'sizes'}"


@dataclass(frozen=True)
class Room:
    """Bytes of memory for a network: ``free`` now, and ``ever`` at most, when nothing else ran."""

    free: int
    ever: int


@dataclass(frozen=True)
class Choice:
    """Where a volume is begun. No ``rung``: nowhere now; ``later``: but when somebody else's work has ended."""

    rung: str | None
    why: str
    estimate: Estimate | None = None
    room: Room | None = None
    later: bool = False


@dataclass(frozen=True)
class Course:
    """How a network came to be applied: what was known before, and what was measured."""

    device: str
    voxels: int
    choice: Choice
    uses: tuple[Use, ...] = ()

    def shown(self) -> dict[str, object]:
        """As it is kept with the run."""
        choice, room = self.choice, self.choice.room
        last = self.uses[-1] if self.uses else None
        return {
            "device": self.device,
            "voxels": self.voxels,
            "began": choice.rung,
            "why": choice.why,
            "needed": choice.estimate.needed if choice.estimate else None,
            "free": room.free if room else None,
            "at_most": room.ever if room else None,
            "applied": last.rung if last and last.fitted else None,
            "taken": last.taken if last and last.fitted else None,
            "did_not_fit": [use.rung for use in self.uses if not use.fitted],
        }


def fit(uses: Sequence[Use]) -> Line | None:
    """The line of what fitted, of measurements on one device and rung."""
    most: dict[int, int] = {}
    for use in uses:
        if use.fitted and use.voxels > 0:
            most[use.voxels] = max(use.taken, most.get(use.voxels, 0))
    if not most:
        return None
    largest = max(most)
    if largest < SPREAD * min(most):
        return Line(0.0, max(taken / voxels for voxels, taken in most.items()), len(most), largest, True)
    mean_voxels, mean_taken = sum(most) / len(most), sum(most.values()) / len(most)
    spread = sum((voxels - mean_voxels) ** 2 for voxels in most)
    slope = max(0.0, sum((voxels - mean_voxels) * (taken - mean_taken) for voxels, taken in most.items()) / spread)
    return Line(max(taken - slope * voxels for voxels, taken in most.items()), slope, len(most), largest, False)


def estimate(uses: Sequence[Use], voxels: int) -> Estimate | None:
    """What a volume needs on one device and rung; None where nothing is known that holds for its size."""
    line = fit(uses)
    seen = line.largest if line else 0
    failed = [use.taken for use in uses if not use.fitted and use.voxels > seen and voxels >= ALIKE * use.voxels]
    if failed:
        return Estimate(round(MORE * max(failed)), True, len(failed), more=True)
    if line is None or voxels > BELIEVED * line.largest:
        return None
    return Estimate(line.at(voxels), not line.proportional, line.sizes)


@dataclass
class Profile:
    """What is known of a network's memory, on any device and rung."""

    _known: dict[tuple[str, str, int, bool], int] = field(default_factory=dict)

    def learn(self, uses: Iterable[Use]) -> None:
        """Take measurements in; of several alike the largest counts."""
        for use in uses:
            if not use.taken:
                continue
            key = (use.device, use.rung, use.voxels, use.fitted)
            self._known[key] = max(use.taken, self._known.get(key, 0))

    def of(self, device: str, rung: str) -> list[Use]:
        return [Use(*key[:3], taken, key[3]) for key, taken in self._known.items() if key[:2] == (device, rung)]

    def lines(self) -> Mapping[tuple[str, str], Line | None]:
        """The line of each device and rung; None where nothing fitted."""
        return {pair: fit(self.of(*pair)) for pair in sorted({key[:2] for key in self._known})}


def choose(rungs: Sequence[tuple[str, str]], voxels: int, profile: Profile, room: Callable[[str], Room]) -> Choice:
    """The first of some rungs, each with its device, whose memory is free by what is known.

    A rung of which nothing is known is tried. One is given up for good only by volumes of several sizes or because it failed before;
    what is only guessed from one size is rather tried than refused.
    """
    rooms = {device: room(device) for device, _ in rungs}
    known = [(device, rung, estimate(profile.of(device, rung), voxels), rooms[device]) for device, rung in rungs]
    passed: list[str] = []
    for _, rung, needed, there in known:
        if needed is None:
            return Choice(rung, _because(passed, f"never measured for such a volume, {told(there.free)} free"), None, there)
        if _suffices(needed, there.free):
            return Choice(rung, _because(passed, f"{needed}, {told(there.free)} free"), needed, there)
        passed.append(f"{rung}: {needed}, {told(there.free)} free")
    if any(_suffices(needed, there.ever) for _, _, needed, there in known if needed):
        return Choice(None, "; ".join(passed), known[-1][2], known[-1][3], later=True)
    for _, rung, needed, there in reversed(known):
        if needed is not None and not needed.sure:
            return Choice(rung, _because(passed, "by one size of volume only, so it is tried"), needed, there)
    most = "; ".join(f"{rung}: {needed}, at most {told(there.ever)} here" for _, rung, needed, there in known)
    return Choice(None, most, known[-1][2], known[-1][3])


def _suffices(needed: Estimate, free: int) -> bool:
    return free >= (needed.needed if needed.more else RESERVE * needed.needed)


def _because(passed: Sequence[str], why: str) -> str:
    return "; ".join([*passed, why])


def told(count: float) -> str:
    """Bytes for people."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{max(0, count):.0f} bytes"
