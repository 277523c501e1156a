"""The configuration that a running node has in use, for its roles that start again while the file is being edited."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import structlog

from dicom_node import log as logging
from dicom_node.config import Config, load, parse
from dicom_node.errors import ConfigurationError

log = structlog.get_logger()

KEPT = "DICOM_NODE_KEPT_CONFIG"
"""Names, in the environment of a role, the copy that its supervisor made."""
COPY = "config.toml"


def keep(config: Config, file: Path) -> Path:
    """Copy a configuration file that is taken into use, readable by its owner only; secrets may stand in it."""
    copy = config.runtime_dir / COPY
    # Without a copy a broken file ends the role that starts again, as it would without all this; what is being written just now is no copy.
    with contextlib.suppress(OSError, UnicodeError, ConfigurationError):
        content = file.read_bytes()
        parse(content.decode(), where=file)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = copy.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(content)
        new.replace(copy)
    return copy


def load_kept(file: Path) -> Config:
    """The configuration of a role: the file's, or where that is broken now, the one that its supervisor was started with.

    Raises
    ------
    ConfigurationError
        The file is broken, and there is no copy.
    """
    try:
        return load(file)
    except ConfigurationError as error:
        try:
            text = Path(os.environ[KEPT]).read_text(encoding="utf-8")
        except (KeyError, OSError):
            raise error from None
        config = parse(text, where=file)
        logging.configure(config.log.level, role="start")
        log.error("configuration.refused", why=str(error), kept="the one before it")
        return config
