"""The node's own sentences in the reader's language: those of a known form; any other stays as it was said, marked as English.

What is kept is what was said; each sentence is taken apart here where it is shown.
"""

from __future__ import annotations

import re
from typing import Final

from dicom_node.web.pages.language import Language
from dicom_node.web.pages.words import N_

_KNOWN: Final = tuple(
    (re.compile(form), text)
    for form, text in (
        # why a study is complete (storage.completion)
        (
            r"no open association is sending it and nothing came for (?P<seconds>\d+) s \(quiet period (?P<period>[\d.e+]+) s\)",
            N_("no open association is sending it, and nothing came for %(seconds)s s (quiet period %(period)s s)"),
        ),
        (
            r"nothing came for (?P<seconds>\d+) s \(max_wait (?P<period>[\d.e+]+) s\)",
            N_("nothing came for %(seconds)s s (at most %(period)s s)"),
        ),
        (r"required series (?P<what>.+) is there", N_("the required series %(what)s is there")),
        (r"required series (?P<what>.+) did not come", N_("the required series %(what)s did not come")),
        (r"the association from (?P<name>.+) is still open but idle", N_("the association from %(name)s is still open, but idle")),
        (r"(?P<count>\d+) instances?", N_("instances: %(count)s")),
        (r"(?P<count>\d+) of (?P<expected>\d+) expected instances?", N_("instances: %(count)s of %(expected)s expected")),
        # why a series was chosen or not (dicom_node.routing.selection)
        (r"the only series that fits", N_("the only series that fits")),
        (r"fits", N_("it fits")),
        (r"fits, and another series is preferred", N_("it fits, and another series is preferred")),
        (r"fits, and is preferred by choice (?P<number>\d+) of the rule", N_("it fits, and is choice %(number)s of the rule")),
        (r"fits, and is preferred by choice (?P<number>\d+) of the model", N_("it fits, and is choice %(number)s of the model")),
        (r"fits, and (?P<who>.+) chose another series", N_("it fits, and %(who)s chose another series")),
        (r"fits, and was chosen by (?P<who>[^:]+): (?P<why>.+)", N_("it fits, and was chosen by %(who)s: %(why)s")),
        (
            r"ambiguous: fits, and so do (?P<count>\d+) other series equally well",
            N_("ambiguous: it fits, and as well as %(count)s other series"),
        ),
        (r"several series fit equally well", N_("several series fit equally well")),
        (r"none of (?P<count>\d+) series fits", N_("none of %(count)s series fits")),
        (r"(?P<count>\d+) of (?P<all>\d+) series chosen", N_("%(count)s of %(all)s series chosen")),
        (r"the study has no received series", N_("no series of the study was received")),
        (r"(?P<count>\d+) images, and it needs at least (?P<least>\d+)", N_("%(count)s images, and %(least)s are needed at least")),
        (
            r"(?P<keyword>[A-Z]\w+) is (?P<found>[^;]+), outside (?P<low>\S+) to (?P<high>\S+)",
            N_("%(keyword)s is %(found)s, outside of %(low)s to %(high)s"),
        ),
        (r"(?P<keyword>[A-Z]\w+) is (?P<found>.+), not (?P<wanted>.+)", N_("%(keyword)s is %(found)s, not %(wanted)s")),
        (r"excluded, (?P<keyword>[A-Z]\w+) is (?P<found>.+)", N_("excluded: %(keyword)s is %(found)s")),
        # what a run waits for (storage.quotas)
        (
            r"waits for the quota of (?P<source>.+): at most (?P<runs>\d+) runs? in (?P<span>\S+) (?P<unit>d|h|min|s)",
            N_("waits for the quota of %(source)s: runs in %(span)s %(unit)s: %(runs)s at most"),
        ),
        # what became of a delivery (dicom_node.work.deliver)
        (r"(?P<count>\d+) objects? answered", N_("answers for objects: %(count)s")),
        (r"(?P<count>\d+) objects? answered, (?P<committed>\d+) committed", N_("answers for objects: %(count)s, committed: %(committed)s")),
        (r"the profile of (?P<peer>.+) takes no (?P<form>.+)", N_("%(peer)s takes no %(form)s by its profile")),
        (r"(?P<peer>.+), tcp: no TCP connection to (?P<where>\S+)", N_("%(peer)s: no TCP connection to %(where)s")),
        (
            r"(?P<peer>.+), tcp: no TCP connection to (?P<where>\S+): Connection refused",
            N_("%(peer)s: no TCP connection to %(where)s, it was refused"),
        ),
    )
)  # fmt: skip
_BEFORE: Final = tuple(
    (re.compile(form), text)
    for form, text in (
        (r"rule (?P<rule>[^,:;]+), model (?P<model>[^,:;]+): ", N_("rule %(rule)s, model %(model)s: ")),
        (r"rule (?P<rule>[^,:;]+): ", N_("rule %(rule)s: ")),
        (r"rule: ", N_("rule: ")),
        (r"model: ", N_("model: ")),
        (r"input (?P<name>[^,:;]+): ", N_("input %(name)s: ")),
        (r"attempts spent: ", N_("no attempt is left: ")),
    )
)


def spoken(text: str, language: Language) -> tuple[str, str]:
    """A sentence as the reader reads it, and the language that it then is in (BCP 47)."""
    if language.code == "en" or not text:
        return text, "en"
    parts = [_translated(part, language) for part in text.split("; ")]
    if any(part is None for part in parts):
        return text, "en"
    return "; ".join(part for part in parts if part is not None), language.tag


def _translated(part: str, language: Language) -> str | None:
    for form, text in _BEFORE:
        if begun := form.match(part):
            rest = _translated(part[begun.end() :], language)
            return None if rest is None else language.gettext(text) % begun.groupdict() + rest
    for form, text in reversed(_KNOWN):  # of two that fit, the later one says more
        if found := form.fullmatch(part):
            return language.gettext(text) % found.groupdict()
    return None
