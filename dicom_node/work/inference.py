"""One run of a model, wherever it is executed: stored images in, encoded objects out. Knows no database and no network."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import structlog

from dicom_node.results.context import EncodedObject, Outcome, ResultContext
from models import alerts
from models.errors import GeometryRefused, InferenceFailed, ModelError, NotApplicable, OutOfMemory

if TYPE_CHECKING:
    from models.batching import Prepared
    from models.findings import Prediction
    from models.memory import Course, Use
    from models.meters import Meter
    from models.predict import Predictor
    from models.spec import DicomSpec
    from models.volume import Volume

log = structlog.get_logger()

T = TypeVar("T")

WARM_MODELS = 2  # kept loaded per device; the one that was used longest ago goes


@dataclass(frozen=True)
class FilePart:
    """Where one Part 10 file lies."""

    path: str
    offset: int
    length: int

    def open(self) -> BinaryIO:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            pieces, at = [], 0
            while at < self.length:
                piece = os.pread(descriptor, min(self.length - at, 64 << 20), self.offset + at)
                if not piece:
                    raise OSError(f"{self.path} ends before byte {self.offset + self.length}")
                pieces.append(piece)
                at += len(piece)
        finally:
            os.close(descriptor)
        return io.BytesIO(pieces[0] if len(pieces) == 1 else b"".join(pieces))


@dataclass(frozen=True)
class Beside:
    """What a run that looks on is compared with: the run whose result went out, its SEG objects and findings; None: there is none."""

    run_pk: int | None
    segmentations: tuple[FilePart, ...] = ()
    findings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A run to carry out. ``watch``: tell what the images are like, for the drift of the input; ``beside``: it only looks on, and makes no
    object."""

    bundle_root: str
    release_digest: str
    images: tuple[FilePart, ...]
    context: ResultContext
    watch: bool = False
    beside: Beside | None = None
    deadline: float | None = None  # the model's own, in seconds
    memory: tuple[Use, ...] = ()  # what this release's runs took before
    others: tuple[tuple[FilePart, ...], ...] = ()  # the images of a model's further inputs, in its order; none of one that is missing


@dataclass(frozen=True)
class Answer:
    """How a run went. ``outcome``: findings, nothing_found, not_applicable or failed; ``findings`` is what people are shown. ``reason``
    of a result: how its network was applied because memory did not suffice. ``device``: where it was applied in the end."""

    outcome: str
    reason: str = ""
    code: str = ""
    passing: bool = False  # of a failure: trying again may help
    objects: tuple[EncodedObject, ...] = ()
    findings: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)  # of a watched run: what its images are like
    beside: int | None = None  # of one that looks on: the run that it was compared with, and how far they agree
    agreement: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    course: Course | None = None  # how the network came to be applied, where it came to that
    together: int = 1  # how many runs' images went through the network in the same pass


@dataclass(frozen=True)
class _Read:
    """A run whose images are read and prepared for the network."""

    predictor: Predictor
    volume: Volume
    prepared: Prepared
    seconds: float


class Runner:
    """Carries out runs on one device, and keeps its models warm between them."""

    def __init__(
        self, device: str, *, cache: Path | None = None, threads: int | None = None, meters: Callable[[Any], Meter] | None = None
    ) -> None:
        self.device = device
        self._meters = meters
        self._cache = cache
        self._threads = threads
        self._warm: dict[str, Predictor] = {}

    def preload(self) -> None:
        """Import what every run needs, before the first one waits for it."""
        import models.predict  # noqa: F401

    def run(self, request: Request) -> Answer:
        """Carry out a run; whatever the images or the model do comes back as an answer."""
        return self._attempt(partial(self._run, request))

    def together(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Carry out runs of one bundle whose images may go through its network in one pass: the number of each with its answer, as they
        come. One that cannot be read or is not what the model is for is answered first, and holds up none of the others."""
        if len(requests) == 1:
            yield 0, self.run(requests[0])
            return
        read: dict[int, _Read] = {}
        for number, request in enumerate(requests):
            got = self._attempt(partial(self._read, request))
            if isinstance(got, Answer):
                yield number, got
            else:
                read[number] = got
        for predictor in {id(each.predictor): each.predictor for each in read.values()}.values():
            alike = {number: each for number, each in read.items() if each.predictor is predictor}
            predictor.apply([each.prepared for each in alike.values()], requests[min(alike)].memory)
        for number in list(read):
            yield number, self._attempt(partial(self._answer, requests[number], read.pop(number)))

    def _attempt(self, carry_out: Callable[[], T]) -> T | Answer:
        try:
            return carry_out()
        except GeometryRefused as error:
            return Answer(Outcome.NOT_APPLICABLE, error.sentence, str(error.code))
        except NotApplicable as error:
            return Answer(Outcome.NOT_APPLICABLE, error.reason, error.code)
        except OutOfMemory as error:
            final = error.final and len(self._warm) == 1  # else another model that is kept warm was in its way
            self._warm.clear()
            return Answer(
                Outcome.FAILED, str(error), "no-room" if error.later else "out-of-memory", passing=not final, course=error.course
            )
        except InferenceFailed as error:
            if _lacked_memory(error):
                self._warm.clear()
                return Answer(Outcome.FAILED, f"{error.stage}: the device has too little memory", "out-of-memory", passing=True)
            return Answer(Outcome.FAILED, str(error), f"failed-{error.stage}", passing=True)
        except ModelError as error:
            return Answer(Outcome.FAILED, str(error), type(error).__name__)

    def _run(self, request: Request) -> Answer:
        read = self._read(request)
        read.predictor.apply([read.prepared], request.memory)
        return self._answer(request, read)

    def _read(self, request: Request) -> _Read:
        from models.stack import read_inputs

        started = time.perf_counter()
        predictor = self._predictor(request)
        given = [[part.open for part in parts] for parts in (request.images, *request.others)]
        volume = read_inputs(predictor.bundle.dicom, given)
        seconds = time.perf_counter() - started
        return _Read(predictor, volume, predictor.prepare(volume), seconds)

    def _answer(self, request: Request, read: _Read) -> Answer:
        from dicom_node.results.encode import encode
        from dicom_node.results.readback import verify
        from dicom_node.work.inputs import named

        clock = time.perf_counter
        predictor, volume = read.predictor, read.volume
        prediction = predictor.finish(read.prepared)
        predicted = clock()
        outcome = Outcome.NOTHING_FOUND if prediction.empty else Outcome.FINDINGS
        if request.beside is not None:
            return self._looked_on(request, request.beside, volume, prediction, outcome, read.seconds)
        objects = encode(prediction, volume.headers, named(_with_outcome(request.context, outcome), predictor.bundle, volume), volume.array)
        encoded = clock()
        verify(objects, prediction)
        timings = {
            "load": prediction.timings.load,
            "read": read.seconds,
            "preprocess": prediction.timings.preprocess,
            "forward": prediction.timings.forward,
            "postprocess": prediction.timings.postprocess,
            "encode": encoded - predicted,
            "verify": clock() - encoded,
        }
        inputs = _watched(request, volume)
        findings = shown(prediction, predictor.bundle.dicom)
        return Answer(
            outcome, prediction.memory, objects=tuple(objects), findings=findings, timings=timings, inputs=inputs,
            device=prediction.device, course=prediction.course,
            together=read.prepared.together,
        )  # fmt: skip

    def _looked_on(
        self, request: Request, beside: Beside, volume: Volume, prediction: Prediction, outcome: Outcome, reading: float
    ) -> Answer:
        """The answer of a run that makes no object."""
        from dicom_node.releases.shadow import compare

        timings = {
            "load": prediction.timings.load,
            "read": reading,
            "preprocess": prediction.timings.preprocess,
            "forward": prediction.timings.forward,
            "postprocess": prediction.timings.postprocess,
        }
        agreement: Mapping[str, Any] = {}
        if beside.run_pk is not None:
            agreement = compare(prediction, [part.open() for part in beside.segmentations], beside.findings)
        inputs = _watched(request, volume)
        return Answer(
            outcome, findings=shown(prediction), timings=timings, inputs=inputs,
            beside=beside.run_pk, agreement=agreement, course=prediction.course,
        )  # fmt: skip

    def _predictor(self, request: Request) -> Predictor:
        from models.bundle import load_bundle
        from models.meters import meter_of
        from models.predict import Predictor

        known = self._warm.pop(request.release_digest, None)
        if known is None:
            while len(self._warm) >= WARM_MODELS:
                del self._warm[next(iter(self._warm))]
            bundle = load_bundle(request.bundle_root)
            known = Predictor(
                bundle, self.device, cache=self._cache, threads=self._threads, expected_digest=request.release_digest,
                meters=self._meters or meter_of,
            )  # fmt: skip
        self._warm[request.release_digest] = known
        return known


def _watched(request: Request, volume: Volume) -> Mapping[str, Any]:
    """What the images of a run are like, where its model has a fingerprint to compare them with. No run fails by it."""
    from dicom_node.releases.drift import FINGERPRINT, describe

    if not request.watch or not Path(request.bundle_root, FINGERPRINT).is_file():
        return {}
    try:
        return describe(volume)
    except Exception as error:  # noqa: BLE001  headers and pixels are anybody's; the result is there, and the numbers beside it are not worth it
        log.warning("drift.undescribed", error=type(error).__name__)
        return {}


def _lacked_memory(error: BaseException | None) -> bool:
    """Whether a lack of memory stands anywhere behind an error; bundles wrap what they catch."""
    seen = 0
    while error is not None and seen < 16:
        if isinstance(error, MemoryError):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _with_outcome(context: ResultContext, outcome: Outcome) -> ResultContext:
    from dataclasses import replace

    return replace(context, outcome=outcome)


def shown(prediction: Prediction, spec: DicomSpec | None = None) -> dict[str, Any]:
    """Findings as people are shown them: numbers with units, decisions with probabilities, and what of it is urgent by the bundle's
    ``spec``; no mask, no identity."""
    labels = {segment.number: segment.label for segment in prediction.segments}
    return {
        "segments": [{"label": segment.label, "voxels": int(segment.mask.sum())} for segment in prediction.segments],
        "measurements": [
            {
                "name": each.name.meaning,
                "of": labels.get(each.segment or 0, ""),
                "value": round(float(each.value), 4),
                "unit": each.unit.value,
            }
            for each in prediction.measurements
        ],
        "classifications": [
            {"label": each.label, "value": each.value.meaning, "positive": each.positive, "probability": each.probability}
            for each in prediction.classifications
        ],
        **({"alerts": urgent} if spec is not None and (urgent := alerts.raised(prediction, spec)) else {}),
    }


Opener = Callable[[], BinaryIO]


def negative_report(bundle_root: str, images: Sequence[Opener], context: ResultContext) -> list[EncodedObject]:
    """The SR of a run that did not apply or failed; nothing where the images cannot even be read."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from dicom_node.results.encode import encode, nothing_run
    from models.bundle import load_bundle
    from models.findings import ModelIdentity

    headers = []
    for image in images:
        try:
            headers.append(dcmread(image(), stop_before_pixels=True))
        except (InvalidDicomError, OSError, ValueError):
            continue
    if not headers:
        return []
    bundle = load_bundle(bundle_root)
    model = bundle.dicom.model
    identity = ModelIdentity(
        model.name,
        model.version,
        model.manufacturer,
        bundle.digest,
        model.family.code(),
        model.intended_use,
        model.licence,
        dict(model.parameters),
        model.experimental,
    )
    return encode(nothing_run(identity, headers), headers, context)
