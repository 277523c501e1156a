"""What a rule file makes of a study: one pure function for the node itself, for ``rule test`` and for ``rule replay``.

Order and conflicts
-------------------
- Rules are looked at in the order of the file. Each speaks of those received series for which all its conditions hold; more than one may
  speak of a series.
- ``ignore`` comes before everything: a series that any rule ignores is left out of all others, wherever they stand.
- ``hold`` stops runs and forwards of the whole study until a person releases it; tags are given all the same.
- ``priority``: a rule's own work has its priority. A rule that neither runs nor forwards anything gives its priority to the study: the
  highest of them is added to that of all work.
- A model that two rules run on the same series with the same release runs once, and its results go to the destinations of both.
- An instance goes to a peer once: where two rules forward it there, the first says in which transfer syntax.
- Nothing is forwarded to the AE title that it came from; what this node made itself is a result, never an original; a copy without
  identity that this node made and that came back is out of all rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dicom_node.config import Config, Peer
from dicom_node.config_rules import Deidentify, Forward, Rule
from dicom_node.releases.resolve import Chosen, Resolution
from dicom_node.routing.narrow import left_out
from dicom_node.routing.rules import keeps_out, out_of_time, why_not
from dicom_node.routing.selection import Choice, Pick, Selection, SeriesNeeds, select_inputs
from storage.ambiguities import Picked
from storage.rule_facts import INDEXED, SeriesFacts, StudyFacts

Models = Callable[[str], Resolution]
COPY = "refused: it has copies without identity that this node made and sent out itself"


@dataclass(frozen=True)
class Spoken:
    """Of which series a rule speaks. ``outside``: series UID > why not of that one."""

    rule: Rule
    series_uids: tuple[str, ...]
    outside: Mapping[str, str]

    @property
    def matched(self) -> bool:
        return bool(self.series_uids)

    @property
    def why_not(self) -> str:
        """The first reason, where the rule speaks of no series."""
        if self.matched:
            return ""
        reasons = list(dict.fromkeys(self.outside.values()))
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        return f"{reasons[0]}{more}" if reasons else "the study has no received series"


@dataclass(frozen=True)
class Outcome:
    """What one rule and one model came to. ``problem``: what has to be repaired; ``idle``: why nothing is run on purpose; ``shadow``: the
    release only looks on."""

    rule: Rule
    chosen: Chosen | None
    name: str
    selection: Selection | None
    problem: str = ""
    idle: str = ""
    shadow: bool = False

    @property
    def why(self) -> str:
        return self.problem or self.idle or (self.selection.summary if self.selection else "")

    @property
    def sentence(self) -> str:
        return f"rule {self.rule.name}, model {self.name}: {self.why}"

    def runs(self, bundle: str, series_uid: str) -> bool:
        """Whether it comes to a run of this bundle on this series."""
        chosen = self.selection.chosen if self.selection else ()
        return self.chosen is not None and self.chosen.bundle.name == bundle and series_uid in chosen


@dataclass(frozen=True)
class Onward:
    """Originals to one peer, by one rule. ``choices``: each series that the rule speaks of; ``instances``: those that go."""

    rule: str
    peer: str
    ae_title: str
    transfer_syntax: str | None
    priority: int
    choices: tuple[Choice, ...]
    instances: int
    deidentify: Deidentify | None = None

    @property
    def how(self) -> str:
        """What is changed on the way, in words; empty where nothing is."""
        return " without identity" if self.deidentify else f" as {self.transfer_syntax}" if self.transfer_syntax else ""

    @property
    def series_uids(self) -> tuple[str, ...]:
        return tuple(choice.series_uid for choice in self.choices if choice.chosen)


@dataclass(frozen=True)
class Said:
    """A word of a rule on the whole study or one series: a tag, why it is held, why it is ignored."""

    rule: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What becomes of a study. ``ignored``: by series UID. ``outcomes`` and ``forwards`` are planned where the study is held, too."""

    study_uid: str
    revision: int
    spoken: tuple[Spoken, ...] = ()
    ignored: Mapping[str, Said] = field(default_factory=dict)
    holds: tuple[Said, ...] = ()
    tags: tuple[Said, ...] = ()
    urgency: int = 0
    urgent_by: str = ""
    outcomes: tuple[Outcome, ...] = ()
    forwards: tuple[Onward, ...] = ()

    @property
    def runs(self) -> tuple[tuple[str, str], ...]:
        """(bundle, series UID) of what runs and does not only look on, once the study is not held."""
        found = [
            (outcome.chosen.bundle.name, uid)
            for outcome in self.outcomes
            if outcome.chosen is not None and outcome.selection is not None and not outcome.shadow
            for uid in outcome.selection.chosen
        ]
        return tuple(dict.fromkeys(found))

    def priority_of(self, rule: Rule) -> int:
        """The priority of a rule's work on this study."""
        return rule.priority + self.urgency


def make_plan(study: StudyFacts, rules: Sequence[Rule], models: Models, peers: Mapping[str, Peer]) -> Plan:
    """Judge a study by rules.

    Parameters
    ----------
    models
        What a name means now; asked once for each name in a rule that runs it.
    peers
        By name.
    """
    first = {rule.name: _outside(rule, study) for rule in rules}
    ignored = {
        uid: Said(rule.name, rule.ignore)
        for rule in reversed(rules)
        if rule.ignore
        for uid, reason in first[rule.name].items()
        if reason is None
    }
    ignored = {uid: ignored[uid] for uid in study.series if uid in ignored}
    spoken = tuple(_spoken(rule, first[rule.name], ignored) for rule in rules)
    speaking = [each.rule for each in spoken if each.matched]
    urging = [rule for rule in speaking if rule.priority and not rule.run and not rule.forward]
    urgent = max(urging, key=lambda rule: rule.priority, default=None)
    urgency = urgent.priority if urgent else 0
    attributes = {uid: each.attributes for uid, each in study.series.items()}
    return Plan(
        study.study_uid,
        study.revision,
        spoken=spoken,
        ignored=ignored,
        holds=tuple(Said(rule.name, rule.hold) for rule in speaking if rule.hold),
        tags=tuple({tag: Said(rule.name, tag) for rule in reversed(speaking) for tag in reversed(rule.tags)}.values())[::-1],
        urgency=urgency,
        urgent_by=urgent.name if urgent else "",
        outcomes=tuple(
            outcome for each in spoken for name in each.rule.run for outcome in _outcomes(each, models(name), attributes, study.picked)
        ),
        forwards=_forwards(study, spoken, urgency, peers),
    )


def keywords(rules: Sequence[Rule], models: Models) -> frozenset[str]:
    """The attributes that rules, and the models that they run, ask for beyond those that stand in the index."""
    wanted: set[str] = set()
    for rule in rules:
        wanted.update(rule.match, *(forward.series for forward in rule.forward))
        if rule.select is not None:
            wanted.update(_asked(rule.select), ["ImageOrientationPatient"] if rule.select.planes else [])
        for name in rule.run:
            meant = models(name)
            for chosen in (meant.live, *meant.shadows):
                if chosen is not None:
                    wanted.update(*(_asked(each) for each in chosen.bundle.dicom.image_inputs))
    return frozenset(wanted) - INDEXED


def _asked(needs: SeriesNeeds) -> set[str]:
    return set().union(needs.match, needs.ranges, *needs.any, *needs.exclude, *needs.prefer)


def peers_of(config: Config) -> dict[str, Peer]:
    """The configured peers by name."""
    return {peer.name: peer for peer in config.peer}


def _outside(rule: Rule, study: StudyFacts) -> dict[str, str | None]:
    """By series: the first condition of the rule that does not hold."""
    late = out_of_time(rule, study.at)
    if late is not None:
        return dict.fromkeys(study.series, late)
    found = {uid: COPY if each.copies else keeps_out(rule, each) for uid, each in study.series.items()}
    if rule.select is not None:
        return {uid: left_out(rule.select, study.series[uid].attributes) if reason is None else reason for uid, reason in found.items()}
    return found


def _spoken(rule: Rule, first: Mapping[str, str | None], ignored: Mapping[str, Said]) -> Spoken:
    outside: dict[str, str] = {}
    for uid, reason in first.items():
        if reason is not None:
            outside[uid] = reason
        elif uid in ignored and not rule.ignore:
            outside[uid] = f"ignored by rule {ignored[uid].rule}: {ignored[uid].text}"
    return Spoken(rule, tuple(uid for uid in first if uid not in outside), outside)


def _outcomes(spoken: Spoken, meant: Resolution, attributes: Mapping[str, Mapping[str, object]], picked: Sequence[Picked]) -> list[Outcome]:
    """What the release in use comes to, and those that look on."""
    rule = spoken.rule
    picks = {
        each.input: Pick(each.series_uid, each.by, each.reason) for each in picked if (each.rule, each.bundle) == (rule.name, meant.name)
    }

    def select(chosen: Chosen) -> Selection:
        needs, prefer = chosen.bundle.dicom.image_inputs, rule.select.prefer if rule.select else ()
        return select_inputs(needs, attributes, outside=spoken.outside, prefer=prefer, every=rule.series == "all", picks=picks)

    if meant.live is None:
        outcomes = [Outcome(rule, None, meant.name, None, meant.problem, meant.idle)]
    else:
        outcomes = [Outcome(rule, meant.live, meant.name, select(meant.live))]
    for chosen in meant.shadows:
        label = f"{meant.name} {chosen.bundle.version} ({chosen.bundle.digest[:12]}, in the shadow)"
        outcomes.append(Outcome(rule, chosen, label, select(chosen), shadow=True))
    return outcomes


def _forwards(study: StudyFacts, spoken: Sequence[Spoken], urgency: int, peers: Mapping[str, Peer]) -> tuple[Onward, ...]:
    found: list[Onward] = []
    taken: dict[tuple[str, str], str] = {}
    for each in spoken:
        rule = each.rule
        for forward in rule.forward:
            for name in forward.to:
                peer = peers[name]
                choices = tuple(_choice(study.series[uid], forward, peer, taken) for uid in each.series_uids)
                chosen = [study.series[choice.series_uid] for choice in choices if choice.chosen]
                taken.update({(name, series.series_uid): rule.name for series in chosen})
                count = sum(series.instances - series.sources.get(peer.ae_title, 0) for series in chosen)
                syntax, priority = forward.transfer_syntax, rule.priority + urgency
                found.append(Onward(rule.name, name, peer.ae_title, syntax, priority, choices, count, forward.deidentify))
    return tuple(found)


def _choice(series: SeriesFacts, forward: Forward, peer: Peer, taken: Mapping[tuple[str, str], str]) -> Choice:
    uid = series.series_uid
    outside = why_not(forward.series, series.attributes)
    if outside is not None:
        return Choice(uid, False, f"forward: {outside}")
    back = series.sources.get(peer.ae_title, 0)
    if back >= series.instances:
        return Choice(uid, False, f"refused: it came from {peer.ae_title}, and nothing is sent back to where it came from")
    if (peer.name, uid) in taken:
        return Choice(uid, False, f"rule {taken[peer.name, uid]} sends it to {peer.name} already")
    kept = f", but {back} of {series.instances} instances, which came from there" if back else ""
    return Choice(uid, True, f"goes to {peer.name}{kept}")
