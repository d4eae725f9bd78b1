"""Which code a long-lived actor runs: detached actors outlive an upgrade and keep the old one."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import raybatch


@cache
def code_version() -> str:
    """The package's version and a digest of its sources, as found when this process first asks."""
    digest = hashlib.sha256()
    root = Path(raybatch.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{raybatch.__version__}+{digest.hexdigest()[:12]}"
