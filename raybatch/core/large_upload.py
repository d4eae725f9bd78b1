"""A file that comes in parts: what was declared of it, and how far it has come.

It lives for an hour beside the ledger and is no entity of it: what it becomes, a File, is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from raybatch.core.model import File

UPLOAD_LIFE_S: Final = 3_600.0


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class LargeUpload:
    upload_id: str
    tenant: str
    file_id: str  #: of the file it becomes; drawn at its creation, so that completing it twice makes one file
    filename: str
    purpose: str
    size_bytes: int  #: declared
    created_at: float
    file_expires_after_s: int | None  #: from the creation of the file
    part_ids: tuple[str, ...] = ()  #: in the order they were joined in; chosen once
    file: File | None = None  #: once it is completed
    cancelled: bool = False

    @property
    def expires_at(self) -> float:
        return self.created_at + UPLOAD_LIFE_S

    def status(self, now: float) -> UploadStatus:
        """``now``: wall clock; an upload is over by itself when its time is."""
        if self.file is not None:
            return UploadStatus.COMPLETED
        if self.cancelled:
            return UploadStatus.CANCELLED
        return UploadStatus.EXPIRED if now >= self.expires_at else UploadStatus.PENDING
