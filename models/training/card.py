"""The model card: README.md of a trained bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.training.config import TrainingConfig
from models.training.record import Record


def card(config: TrainingConfig, classes: Sequence[str], record: Record) -> str:
    """Markdown: what the model is for, what it was made from, how good it was there, and its limits."""
    return "\n".join(_lines(config, classes, record)) + "\n"


def _lines(config: TrainingConfig, classes: Sequence[str], record: Record) -> Iterator[str]:
    model = (config.dicom or {}).get("model", {})
    yield f"# {config.card.title or model.get('name', record.data)}"
    yield ""
    if config.card.summary:
        yield config.card.summary
        yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| Task | {config.task}{': ' + ', '.join(classes) if classes else ''} |"
    yield f"| Data | {config.data.source or record.data} |"
    yield f"| Licence of the data | {config.data.licence or 'not stated'} |"
    if model:
        yield f"| Licence of the model | {model.get('licence')} |"
        yield f"| Intended use | {model.get('intended_use')} |"
    yield f"| Network | {str(config.network['_target_']).rsplit('.', 1)[-1]}, {record.parameters:,} parameters |"
    yield f"| Split | by subject, seed {config.split.seed}: {_counts(record)} |"
    yield f"| Training | {len(record.curve)} epochs, batch {config.run.batch}, {record.precision}; epoch {record.best_epoch} kept |"
    machine = f"{record.machine}, {record.threads} threads, load {record.load:.1f}"
    yield f"| Time | {record.seconds / 60:.1f} minutes on {record.device} ({machine}) |"
    yield ""
    yield "## Figures"
    yield ""
    yield "On the network's grid; the held-out test part was seen neither in training nor in choosing the epoch."
    yield ""
    yield "| figure | validation | test |"
    yield "|---|---|---|"
    for name in dict.fromkeys((*record.validation, *record.figures)):
        yield f"| {name} | {_value(record.validation.get(name))} | {_value(record.figures.get(name))} |"
    yield ""
    yield "## Limits"
    yield ""
    yield config.card.limits or "Evaluated on the data named above and on nothing else."
    yield ""
    yield "Research only: not a medical device, no clinical use."
    if record.skipped:
        yield ""
        yield f"{len(record.skipped)} items were passed over; docs/training.json lists them with the reasons."


def _counts(record: Record) -> str:
    return ", ".join(f"{name} {count} images of {record.subjects[name]} subjects" for name, count in record.counts.items() if count)


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
