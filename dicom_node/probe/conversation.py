"""The probe: each kind of object is sent, what was taken is asked to be kept, and queried back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO

from dicom_node.config import Config, Peer
from dicom_node.dimse.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_node.dimse.errors import DimseError
from dicom_node.dimse.references import Reference
from dicom_node.dimse.scu import StoreItem
from dicom_node.dimse.scu_find import find, find_contexts
from dicom_node.finding import identifier
from dicom_node.probe.commitment import Committed, ask
from dicom_node.probe.objects import ProbeStudy, again, probe_study
from dicom_node.results.context import EncodedObject
from dicom_node.transcode import TranscodeError, Transcoder
from dicom_node.work.associating import associate_peer
from dicom_node.work.changing import UIDS

Said = Callable[[str], None]
COMPRESSED = ("rle", "jpeg_ls", "jpeg_2000", "htj2k", "deflated")


@dataclass(frozen=True)
class KindProbed:
    """What a peer made of one kind. ``found``, ``committed``: None where that could not be asked."""

    kind: str
    sop_class_uid: str
    taken: bool
    answer: str
    syntaxes: tuple[str, ...] = ()
    found: bool | None = None
    committed: bool | None = None

    @property
    def usable(self) -> bool:
        """It was taken, and nothing says that it was not kept."""
        return self.taken and self.found is not False


@dataclass(frozen=True)
class Probed:
    """All that a probe found out. ``syntaxes``: those in which it took a picture, as `transfer_syntaxes` names them."""

    peer: str
    study_uid: str
    kinds: tuple[KindProbed, ...]
    syntaxes: tuple[str, ...]
    query: str
    commitment: Committed


def probe(config: Config, peer: Peer, *, at: float, wait: float, said: Said) -> Probed:
    """Send, ask and query.

    Raises
    ------
    DimseError
        The peer cannot be reached, or refuses every association.
    """
    study = probe_study(at, config.node.ae_title)
    kinds = []
    for kind, objects in study.objects.items():
        kinds.append(_stored(config, peer, kind, objects))
        said(f"{kind}: {kinds[-1].answer}")
    syntaxes = _syntaxes(config, peer, study, kinds)
    said(f"transfer syntaxes: {', '.join(syntaxes) or 'none but the uncompressed ones'}")
    taken = [each for kind in kinds if kind.taken for each in study.objects[kind.kind]]
    references = [Reference(each.sop_class_uid, each.sop_instance_uid) for each in taken]
    commitment = ask(config, peer, references, wait) if taken else Committed(False, "nothing was taken that could be kept")
    said(f"storage commitment: {commitment.detail}")
    there, query = _found(config, peer, taken)
    said(f"query: {query}")
    judged = tuple(_judged(each, [o.sop_instance_uid for o in study.objects[each.kind]], there, commitment.uids) for each in kinds)
    return Probed(peer.name, study.study_uid, judged, syntaxes, query, commitment)


def _judged(kind: KindProbed, uids: Sequence[str], there: frozenset[str] | None, committed: frozenset[str] | None) -> KindProbed:
    if not kind.taken:
        return kind
    return replace(
        kind,
        found=None if there is None else there.issuperset(uids),
        committed=None if committed is None else committed.issuperset(uids),
    )


def _stored(config: Config, peer: Peer, kind: str, objects: Sequence[EncodedObject]) -> KindProbed:
    """Send the objects of a kind, on an association of their own: a peer that aborts over one kind may take the next."""
    sop_class = objects[0].sop_class_uid
    wanted = {EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, *(UIDS[name] for name in COMPRESSED)}
    try:
        with associate_peer(config, peer, [(sop_class, [syntax]) for syntax in sorted(wanted)]) as association:
            names = {uid: name for name, uid in UIDS.items()}
            accepted = tuple(sorted(names[syntax] for uid, syntax in association.accepted if uid == sop_class))
            if not association.accepts(sop_class, EXPLICIT_VR_LITTLE_ENDIAN):
                why = "in no transfer syntax" if not accepted else f"only in {', '.join(accepted)}"
                return KindProbed(kind, sop_class, False, f"refused: the class is accepted {why}", accepted)
            results = [association.store(_item(each)) for each in objects]
    except DimseError as error:
        if error.step in ("tcp", "tls"):
            raise
        return KindProbed(kind, sop_class, False, f"{error.step}: {error}")
    worst = max(results, key=lambda result: (not result.ok, result.status))
    comment = f" {worst.comment}" if worst.comment else ""
    verdict = "taken" if worst.ok else "refused"
    return KindProbed(kind, sop_class, worst.ok, f"{verdict} ({worst.status:04X}{comment})", accepted)


def _syntaxes(config: Config, peer: Peer, study: ProbeStudy, kinds: Sequence[KindProbed]) -> tuple[str, ...]:
    """The compressed transfer syntaxes in which a picture was accepted and stored."""
    pictures = [each for each in kinds if each.kind in ("SC", "LABELMAP", "IMAGE") and each.taken]
    if not pictures:
        return ()
    best = max(pictures, key=lambda each: len(each.syntaxes))
    with closing(Transcoder()) as transcoder:
        offered = [name for name in COMPRESSED if name in best.syntaxes]
        return tuple(name for name in offered if _takes(config, peer, again(study, best.kind, name), name, transcoder))


def _takes(config: Config, peer: Peer, picture: EncodedObject, name: str, transcoder: Transcoder) -> bool:
    """Whether a peer stores a picture in a transfer syntax."""
    try:
        made = transcoder.transcode(picture.dataset_bytes, picture.transfer_syntax_uid, UIDS[name])
        with associate_peer(config, peer, [(picture.sop_class_uid, [UIDS[name]])]) as association:
            return association.store(_item(replace(picture, dataset_bytes=made, transfer_syntax_uid=UIDS[name]))).ok
    except (TranscodeError, DimseError):
        return False


def _item(encoded: EncodedObject) -> StoreItem:
    data = encoded.dataset_bytes
    return StoreItem(encoded.sop_class_uid, encoded.sop_instance_uid, encoded.transfer_syntax_uid, len(data), lambda: BytesIO(data))


def _found(config: Config, peer: Peer, taken: Sequence[EncodedObject]) -> tuple[frozenset[str] | None, str]:
    """The instances that a query finds, series by series; None where the peer answers no query."""
    there: set[str] = set()
    try:
        with associate_peer(config, peer, find_contexts()) as association:
            for study, series in dict.fromkeys((each.study_uid, each.series_uid) for each in taken):
                keys = [f"StudyInstanceUID={study}", f"SeriesInstanceUID={series}"]
                there.update(str(match.get("SOPInstanceUID") or "") for match in find(association, identifier("image", keys)))
    except DimseError as error:
        return None, f"cannot be asked: {error.step}: {error}"
    found = sum(each.sop_instance_uid in there for each in taken)
    return frozenset(there), f"found {found} of {len(taken)} instances"
