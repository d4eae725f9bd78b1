"""Counters after Jepsen: rows ``lost``, answers ``duplicated``, and whatever else is ``unexpected``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

FAULTS_TOLD_MAX: Final = 20


@dataclass(slots=True)
class Verdict:
    lost: int = 0  #: requests that no row answers
    duplicated: int = 0  #: answers beyond a request's first
    unexpected: int = 0  #: everything else that does not agree
    faults: list[str] = field(default_factory=list)  #: the first of them, in words

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected)

    def lose(self, what: str, rows: int = 1) -> None:
        self.lost += rows
        self._tell(what)

    def double(self, what: str, rows: int = 1) -> None:
        self.duplicated += rows
        self._tell(what)

    def wonder(self, what: str, rows: int = 1) -> None:
        self.unexpected += rows
        self._tell(what)

    def _tell(self, what: str) -> None:
        if len(self.faults) < FAULTS_TOLD_MAX:
            self.faults.append(what)
