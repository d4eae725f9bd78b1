"""What every route is given, and the small moves they share. It holds no state that a request depends on."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Request

from raybatch.actors.reads import Overview
from raybatch.actors.scheduler_port import SchedulerPort, raise_rejection
from raybatch.config import Home, Settings
from raybatch.core.model import DEFAULT_TENANT
from raybatch.errors import Busy, TooLarge
from raybatch.storage.blobs import BlobStore
from serve_app.whole import Wholes

BODY_BYTES_MAX = 1 << 20  #: of a JSON body: sixteen pairs of metadata need a hundredth of it
BUSY_RETRY_AFTER_S = 5
DISK_FULL_RETRY_AFTER_S = 60
FILE_ID_ALPHABET = string.ascii_letters + string.digits


@dataclass(slots=True)
class Door:
    home: Home
    settings: Settings
    scheduler: SchedulerPort
    blobs: BlobStore
    served_since: float  #: shown as the models' ``created``
    uploads: int = field(default=0, init=False)  #: under way in this replica
    parts: int = field(default=0, init=False)  #: of large uploads, likewise
    wholes: Wholes = field(init=False)
    background: set[asyncio.Task[None]] = field(default_factory=set, init=False)  #: nobody waits for them

    def __post_init__(self) -> None:
        self.wholes = Wholes(self.settings.intake.line_bytes_max)

    @property
    def tenant(self) -> str:
        return DEFAULT_TENANT

    async def writable(self) -> Overview:
        """Raises Unavailable when nothing new is taken in: said before a client sends gigabytes."""
        overview: Overview = await self.scheduler.read("overview")
        raise_rejection(overview.closed)
        return overview

    @contextmanager
    def upload_slot(self) -> Iterator[None]:
        """Raises Busy while as many uploads as the settings allow are under way."""
        _check_free("uploads", self.uploads, self.settings.api.uploads_at_once_max)
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    @contextmanager
    def part_slot(self) -> Iterator[None]:
        """As ``upload_slot``, for the parts of large uploads."""
        _check_free("parts", self.parts, self.settings.api.parts_at_once_max)
        self.parts += 1
        try:
            yield
        finally:
            self.parts -= 1


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


TheDoor = Annotated[Door, Depends(_door)]


def _check_free(what: str, under_way: int, most: int) -> None:
    if under_way >= most:
        raise Busy(
            f"{under_way} {what} are under way and this server takes {most} at once "
            f"(setting api.{what}_at_once_max). Try again shortly.",
            retry_after_s=BUSY_RETRY_AFTER_S,
            code=f"too_many_{what}",
        )


async def small_body(request: Request) -> bytes:
    """The whole body. Raises TooLarge before it holds more than ``BODY_BYTES_MAX`` and one message."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > BODY_BYTES_MAX:
            raise TooLarge(f"A JSON body may have {BODY_BYTES_MAX:,} bytes; this one is longer.")
    return bytes(body)


def new_batch_id() -> str:
    return f"batch_{uuid4().hex}"


def new_file_id() -> str:
    return "file-" + "".join(secrets.choice(FILE_ID_ALPHABET) for _ in range(24))


def new_reply_to() -> str:
    return uuid4().hex
