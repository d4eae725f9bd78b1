"""One upload on its way from a multipart form to a file: checked, hashed and written as it arrives.

Refuses to hold the file in memory or anywhere but beside its final place. Whatever goes wrong, a client that
hangs up included, no byte of it stays.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fastapi import Request

from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest, TooLarge, Unavailable
from raybatch.storage.blobs import BlobStore, BlobWriter
from serve_app.announcement import Announcement
from serve_app.door import DISK_FULL_RETRY_AFTER_S, Door, new_file_id
from serve_app.jsonl_check import JsonlCheck
from serve_app.multipart import MultipartReader, PartBegun, PartBytes, PartEnded, Piece
from serve_app.threads import in_thread

FORM_BYTES_MAX = 64 << 10  #: of a form beside its file: names, boundaries and fields
WRITE_BYTES = 1 << 20  #: written at once: fewer turns between threads
SILENCE_MAX_S = 60.0  #: a sender that stops for so long gives its upload slot back
FILENAME_CHARACTERS_MAX = 255


@dataclass(slots=True)
class Upload:
    """A form read to its end. Its file is on disk and not yet durable: ``keep`` makes it so."""

    file_id: str
    fields: dict[str, str]
    filename: str
    size_bytes: int
    lines: int  #: that are not blank
    first_line: bytes  #: the first that is not blank; empty when it is too long to be held
    _blob: _Blob

    async def keep(self) -> str:
        """Make the file durable under ``file_id``; answer its SHA-256 as hex."""
        sha256 = await in_thread(self._blob.commit)
        crash_point("upload.kept")
        return sha256


@asynccontextmanager
async def received(request: Request, door: Door, fields: tuple[str, ...]) -> AsyncIterator[Upload]:
    """The form of ``request``: one ``file`` and, beside it, only ``fields``.

    When the block raises, the file goes, kept or not. Raises BadRequest, TooLarge, and Unavailable when the
    disk is full.
    """
    api = door.settings.api
    check_length(request, api.upload_bytes_max, _too_large)
    file_id = new_file_id()
    blob = _Blob(door.blobs, file_id, JsonlCheck(door.settings.intake.line_bytes_max))
    sink = Sink(blob.write, api.upload_bytes_max, _too_large)
    form = Form("file", fields, sink)
    announcement = Announcement(door, file_id)
    try:
        with disk_full_is_unavailable():
            await read_form(request, form, lambda: blob.announce(announcement))
            filename, check = form.filename(), blob.check
            await in_thread(check.finish)
            yield Upload(file_id, form.fields, filename, sink.size_bytes, check.lines, check.first_line, blob)
    except BaseException:
        await in_thread(blob.discard)
        raise


async def read_form(request: Request, form: Form, written: Callable[[], None] = lambda: None) -> None:
    """The whole body into ``form``; ``written`` is called after each write of its sink but the last.

    Raises BadRequest for what is no such form, and what the sink raises.
    """
    reader = MultipartReader(request.headers.get("content-type", ""))
    async for block in _blocks(request):
        for piece in reader.feed(block):
            form.take(piece)
        if form.sink.pending_bytes >= WRITE_BYTES:
            await in_thread(form.sink.write_pending)
            written()
    reader.finish()
    await in_thread(form.sink.write_pending)


def check_length(request: Request, bytes_max: int, too_large: Callable[[str, int], TooLarge]) -> None:
    """Refuse what is too long before reading it; a length not given, or not true, is found out later."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > bytes_max + FORM_BYTES_MAX:
        raise too_large(f"is {int(length):,} bytes long", bytes_max)


def base_name(given: str) -> str:
    """Of a file as its client named it: no folder, not too long, not empty."""
    name = PurePosixPath(given.replace("\\", "/")).name
    return name[:FILENAME_CHARACTERS_MAX] or "upload.jsonl"


@contextmanager
def disk_full_is_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            "The disk of this server is full, so the upload was not stored. Try again once there is space.",
            retry_after_s=DISK_FULL_RETRY_AFTER_S,
            code="disk_full",
        ) from error


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(SILENCE_MAX_S):
                block = await anext(stream, None)
        except TimeoutError:
            raise BadRequest(f"The upload stopped: no byte came for {SILENCE_MAX_S:g} s.") from None
        if block is None:
            return
        yield block


def _too_large(found: str, most: int) -> TooLarge:
    return TooLarge(
        f"This upload {found}; a file sent in one piece may have {most:,} bytes (setting "
        "api.upload_bytes_max). Send it in parts, by POST /v1/uploads: the stock client's "
        "uploads.upload_file_chunked does that, and so does `raybatch submit`.",
        param="file",
        code="file_too_large",
    )


@dataclass(slots=True)
class Form:
    """Sorts the pieces of a form: text into ``fields``, the file of the name ``file_part`` into the sink."""

    file_part: str
    known: tuple[str, ...]
    sink: Sink
    fields: dict[str, str] = field(default_factory=dict)
    _part: PartBegun | None = None
    _text: bytearray = field(default_factory=bytearray)
    _field_bytes: int = 0
    _filename: str | None = None

    def take(self, piece: Piece) -> None:
        match piece:
            case PartBegun():
                self._begin(piece)
            case PartBytes(block) if self._in_file:
                self.sink.add(block)
            case PartBytes(block):
                self._add_text(block)
            case PartEnded() if self._part is not None and not self._in_file:
                self.fields[self._part.name] = self._text.decode(errors="replace")
                self._text.clear()

    def filename(self) -> str:
        """The name the client gave the file. Raises BadRequest when the form had no file."""
        if self._filename is None:
            raise BadRequest(
                f"Missing required parameter: '{self.file_part}'. {self._expected}",
                param=self.file_part,
                code="missing_required_parameter",
            )
        return base_name(self._filename)

    @property
    def _expected(self) -> str:
        return f"Send '{self.file_part}' as a file part of the form, with a filename."

    @property
    def _in_file(self) -> bool:
        return self._part is not None and self._part.filename is not None

    def _begin(self, part: PartBegun) -> None:
        is_file, name = part.filename is not None, part.name[:200]
        if is_file and (part.name != self.file_part or self._filename is not None):
            message = f"Expected one file part named '{self.file_part}', but found another named '{name}'."
            raise BadRequest(message, param=name, code="unknown_parameter")
        if not is_file and part.name == self.file_part:
            message = f"Invalid type for '{name}': it is a plain field. {self._expected}"
            raise BadRequest(message, param=name, code="invalid_type")
        if not is_file and part.name not in self.known:
            known = ", ".join((self.file_part, *self.known))
            message = f"Unknown parameter: '{name}'. Known are: {known}."
            raise BadRequest(message, param=name, code="unknown_parameter")
        self._part = part
        self._filename = part.filename if is_file else self._filename

    def _add_text(self, block: bytes) -> None:
        self._field_bytes += len(block)
        if self._field_bytes > FORM_BYTES_MAX:
            raise TooLarge(f"The fields of a form may have {FORM_BYTES_MAX:,} bytes; these are longer.")
        self._text += block


class Sink:
    """A file's bytes: gathered on the event loop, written in threads, one call at a time."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        bytes_max: int,
        too_large: Callable[[str, int], TooLarge],
    ) -> None:
        self._write = write
        self._bytes_max = bytes_max
        self._too_large = too_large
        self._pending: list[bytes] = []
        self.pending_bytes = 0
        self.size_bytes = 0

    def add(self, block: bytes) -> None:
        self.size_bytes += len(block)
        if self.size_bytes > self._bytes_max:
            raise self._too_large(f"has more than {self._bytes_max:,} bytes", self._bytes_max)
        self._pending.append(block)
        self.pending_bytes += len(block)

    def write_pending(self) -> None:
        block = b"".join(self._pending)
        self._pending.clear()
        self.pending_bytes = 0
        if block:
            self._write(block)


class _Blob:
    """Where the file of one upload goes. The first block makes it."""

    def __init__(self, blobs: BlobStore, file_id: str, check: JsonlCheck) -> None:
        self._blobs = blobs
        self._file_id = file_id
        self._writer: BlobWriter | None = None
        self._committed = False
        self.check = check

    def write(self, block: bytes) -> None:
        if self._writer is None:
            self._writer = self._blobs.writer(self._file_id).__enter__()
        self.check.feed(block)
        self._writer.write(block)

    def announce(self, announcement: Announcement) -> None:
        if self._writer is not None:
            announcement.grown(self._writer.arriving, self._writer.size_bytes)

    def commit(self) -> str:
        assert self._writer is not None
        _, sha256 = self._writer.commit()
        self._committed = True
        return sha256

    def discard(self) -> None:
        if self._committed:
            self._blobs.remove(self._file_id)
        elif self._writer is not None:
            self._writer.__exit__(None, None, None)
