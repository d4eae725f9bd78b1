"""Tells the scheduler of a large upload while it arrives, so that its lines are read meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from raybatch.actors.read_ahead import LARGE_BYTES
from raybatch.core.events import UploadArriving
from raybatch.errors import RaybatchError
from serve_app.door import Door


class Announcement:
    """Of one upload, once; on the event loop. Nobody waits for it, and it may be lost."""

    def __init__(self, door: Door, file_id: str, made: bool = False) -> None:
        self._door = door
        self._file_id = file_id
        self.made = made

    def grown(self, arriving: Path, size_bytes: int) -> None:
        """``arriving``: where the upload is on its way; ``size_bytes``: how much of it is there."""
        if self.made or size_bytes < LARGE_BYTES:
            return
        self.made = True
        path = str(arriving.relative_to(self._door.home.root))
        telling = asyncio.get_running_loop().create_task(self._tell(UploadArriving(self._file_id, path)))
        self._door.background.add(telling)
        telling.add_done_callback(self._door.background.discard)

    async def _tell(self, hint: UploadArriving) -> None:
        with suppress(RaybatchError):
            await self._door.scheduler.ask(hint)
