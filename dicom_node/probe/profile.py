"""What a probe measured as a [[peer]] table that can be pasted into the configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from dicom_node.config import Peer
from dicom_node.probe.conversation import KindProbed, Probed
from dicom_node.results.forms import KINDS

# Instead of what a peer does not take, the first of these that it does.
_FOR_SEGMENTS = ("SEG", "LABELMAP", "PR", "SC", "SC_MULTIFRAME")
_FOR_REPORT = ("SR", "KO", "SC")


def recommended(kinds: Sequence[KindProbed]) -> tuple[str, ...]:
    """One kind that shows where, and one that says what: the record itself where it is taken and kept."""
    usable = {each.kind for each in kinds if each.usable}
    chosen = [next((kind for kind in wanted if kind in usable), None) for wanted in (_FOR_SEGMENTS, _FOR_REPORT)]
    return tuple(kind for kind in KINDS if kind in chosen)


def toml(probed: Probed, peer: Peer) -> Iterator[str]:
    """The lines of the table; what was measured stands in its comments."""
    chosen = recommended(probed.kinds)
    also = [each.kind for each in probed.kinds if each.usable and each.kind in KINDS and each.kind not in chosen]
    yield f"# Measured by dicom-node peer probe {peer.name}. The peer holds test study {probed.study_uid}, which may be deleted."
    for each in probed.kinds:
        yield f"#   {each.kind}: {each.answer}{_kept(each)}"
    yield f"#   query: {probed.query}"
    yield f"#   storage commitment: {probed.commitment.detail}"
    yield "[[peer]]"
    for name, value in peer.model_dump(
        mode="json", exclude_unset=True, exclude={"results", "suffices", "commitment", "transfer_syntaxes"}
    ).items():
        if value is not None:
            yield f"{name} = {_value(value)}"
    if not chosen:
        yield "# It takes no kind of result."
    beside = f"   # it takes {', '.join(also)} as well" if also else ""
    yield f"results = {_value(chosen)}{beside}"
    if chosen and "SR" not in chosen:
        yield f"suffices = {_value(chosen[-1:])}"
    if probed.syntaxes:
        yield f"# transfer_syntaxes = {_value(probed.syntaxes)}   # it took pictures in these"
    yield f"commitment = {_value(bool(probed.commitment.uids))}"


def _kept(kind: KindProbed) -> str:
    found = {True: ", found by query", False: ", NOT found by query", None: ""}[kind.found]
    return found + {True: ", committed", False: ", NOT committed", None: ""}[kind.committed]


def _value(value: object) -> str:
    """A value as TOML: JSON's strings, numbers, truth and lists are TOML's as well."""
    return json.dumps(value, ensure_ascii=False)
