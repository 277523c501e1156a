"""The configuration with the rules that the running node took last; a role read the file when it started."""

from __future__ import annotations

from pathlib import Path

from dicom_node.config import Config, parse
from dicom_node.errors import ConfigurationError
from dicom_node.kept_config import COPY
from dicom_node.routing.live import running_state


def in_use(started: Config) -> Config:
    """What a role was started with, with the rules of now."""
    state = running_state(started.runtime_dir)
    if state is None:
        return started
    try:
        taken = parse((started.runtime_dir / COPY).read_text(encoding="utf-8"), where=Path(state.file))
    except (OSError, UnicodeError, ConfigurationError):
        return started
    return started.model_copy(update={"rule": taken.rule})
