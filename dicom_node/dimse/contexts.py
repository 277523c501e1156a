"""What this node accepts: SOP classes, transfer syntaxes, and the negotiation of both (PS3.8 7.1.1.13, PS3.7 D.3)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, StoragePresentationContexts

from dicom_node.dimse.pdu import ContextResult, ProposedContext

VERIFICATION: Final = "1.2.840.10008.1.1"
LABEL_MAP_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.7"
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
DICOM_ROOT: Final = "1.2.840.10008."
STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"
UPS_WATCH: Final = "1.2.840.10008.5.1.4.34.6.2"
UPS_PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
UPS_EVENT: Final = "1.2.840.10008.5.1.4.34.6.4"
UPS_QUERY: Final = "1.2.840.10008.5.1.4.34.6.5"
UPS_CLASSES: Final = frozenset({UPS_PUSH, UPS_WATCH, UPS_PULL, UPS_EVENT, UPS_QUERY})

PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_STUDY_ONLY_FIND: Final = "1.2.840.10008.5.1.4.1.2.3.1"
PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
PATIENT_STUDY_ONLY_MOVE: Final = "1.2.840.10008.5.1.4.1.2.3.2"
PATIENT_STUDY_ONLY_GET: Final = "1.2.840.10008.5.1.4.1.2.3.3"
FIND_CLASSES: Final = frozenset({PATIENT_ROOT_FIND, STUDY_ROOT_FIND, PATIENT_STUDY_ONLY_FIND})
MOVE_CLASSES: Final = frozenset({PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE, PATIENT_STUDY_ONLY_MOVE})
GET_CLASSES: Final = frozenset({PATIENT_ROOT_GET, STUDY_ROOT_GET, PATIENT_STUDY_ONLY_GET})

_PATIENT_ROOT: Final = ("PATIENT", "STUDY", "SERIES", "IMAGE")
LEVELS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys((PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET), _PATIENT_ROOT),
    **dict.fromkeys((STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET), _PATIENT_ROOT[1:]),
    **dict.fromkeys((PATIENT_STUDY_ONLY_FIND, PATIENT_STUDY_ONLY_MOVE, PATIENT_STUDY_ONLY_GET), _PATIENT_ROOT[:2]),
}
"""The Query/Retrieve Levels of each information model (PS3.4 C.6)."""

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

ACCEPTED: Final = 0
USER_REJECTION: Final = 1
NO_REASON: Final = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

_FIRST: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
# JPEG processes that PS3.5 has retired; older archives and ours still hold images of them.
_RETIRED: Final = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (52, 53, 54, 55, 56, *range(58, 67)))
_LAST: Final = (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)

TRANSFER_SYNTAXES: Final[tuple[str, ...]] = (
    *_FIRST,
    *(uid for uid in map(str, ALL_TRANSFER_SYNTAXES) if uid not in _FIRST + _LAST),
    *_RETIRED,
    *_LAST,
)
"""Every transfer syntax, in the order in which one is chosen where a context proposes several."""

STORAGE_CLASSES: Final[frozenset[str]] = frozenset(
    {str(context.abstract_syntax) for context in (*AllStoragePresentationContexts, *StoragePresentationContexts)} | {LABEL_MAP_SEGMENTATION}
)
"""Every Storage SOP class that is known, retired ones included."""


def storage_classes(private: Iterable[str] = ()) -> frozenset[str]:
    """All Storage SOP classes and the configured private ones."""
    return STORAGE_CLASSES.union(private)


class Negotiator:
    """Answers proposed presentation contexts.

    Parameters
    ----------
    abstract_syntaxes
        SOP classes that have a service here.
    extra_transfer_syntaxes
        Private transfer syntaxes that are taken for storage too.
    """

    def __init__(self, abstract_syntaxes: Iterable[str], extra_transfer_syntaxes: Sequence[str] = ()) -> None:
        self._abstract = frozenset(abstract_syntaxes)
        order = (*TRANSFER_SYNTAXES, *extra_transfer_syntaxes)
        self._rank = {uid: rank for rank, uid in enumerate(order)}

    def answer(self, proposed: Sequence[ProposedContext]) -> list[ContextResult]:
        """One result per proposed context, with one transfer syntax each."""
        return [self._answer(context) for context in proposed]

    def _answer(self, context: ProposedContext) -> ContextResult:
        first = context.transfer_syntaxes[0] if context.transfer_syntaxes else IMPLICIT_VR_LITTLE_ENDIAN
        if context.abstract_syntax not in self._abstract:
            return ContextResult(context.id, ABSTRACT_SYNTAX_NOT_SUPPORTED, first)
        rank = self._rank
        plain = context.abstract_syntax in FIND_CLASSES or context.abstract_syntax in UPS_CLASSES
        known = [uid for uid in context.transfer_syntaxes if uid in (_FIRST if plain else rank)]
        if not known:
            return ContextResult(context.id, TRANSFER_SYNTAXES_NOT_SUPPORTED, first)
        return ContextResult(context.id, ACCEPTED, known[0] if len(known) == 1 else min(known, key=rank.__getitem__))


_EXTENDED: Final = {**dict.fromkeys(FIND_CLASSES, b"\1\1\1\1"), **dict.fromkeys(MOVE_CLASSES | GET_CLASSES, b"\1")}
"""What is offered beyond the basic queries (PS3.4 C.5.1.1): relational; combined date-times, fuzzy names, other time zones."""


def answer_extended(proposed: Mapping[str, bytes], accepted: Container[str]) -> dict[str, bytes]:
    """Answer SOP class extended negotiation (PS3.7 D.3.3.5): what is asked for and offered, byte by byte; the rest is 0."""
    answers = {}
    for uid, asked in proposed.items():
        offered = _EXTENDED.get(uid)
        if offered is not None and uid in accepted:
            answers[uid] = bytes(min(each, offered[number]) if number < len(offered) else 0 for number, each in enumerate(asked[:16]))
    return answers


def answer_roles(
    proposed: Mapping[str, tuple[bool, bool]], accepted: Iterable[str], provided: Container[str] = ()
) -> dict[str, tuple[bool, bool]]:
    """Answer SCP/SCU role selection (PS3.7 D.3.3.4): the requestor is the user, and of the classes ``provided`` also the provider,
    where it proposes so: of Storage classes, to which a C-GET sends."""
    classes = set(accepted)
    return {uid: (scu, scp and uid in provided) for uid, (scu, scp) in proposed.items() if uid in classes}
