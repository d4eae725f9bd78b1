"""Logs: one line a record on stderr, no prompt and no completion text, ever."""

from __future__ import annotations

import logging
import os

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_stderr() -> None:
    """For processes of ours; the level is RAYBATCH_LOG, or INFO."""
    level = os.environ.get("RAYBATCH_LOG", "INFO").upper()
    logger = logging.getLogger("raybatch")
    logger.setLevel(level)
    if not logger.handlers:
        stream = logging.StreamHandler()
        stream.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(stream)
        logger.propagate = False
