"""One upload on its way from a multipart form to a blob: checked, hashed and written as it arrives.

Refuses to hold the file in memory or anywhere but beside its final place. Whatever goes wrong, a client that
hangs up included, no byte of it stays.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import msgspec
from fastapi import Request

from raybatch.crash_points import crash_point
from raybatch.errors import BadRequest, TooLarge, Unavailable
from raybatch.storage.blobs import BlobStore, BlobWriter
from raybatch.wire.jsonl import read_lines
from serve_app.door import DISK_FULL_RETRY_AFTER_S, Door, new_file_id
from serve_app.line_count import LineCount
from serve_app.multipart import MultipartReader, PartBegun, PartBytes, PartEnded, Piece
from serve_app.threads import in_thread

FORM_BYTES_MAX = 64 << 10  #: of a form beside its file: names, boundaries and fields
WRITE_BYTES = 1 << 20  #: written at once: fewer turns between threads
SILENCE_MAX_S = 60.0  #: a sender that stops for so long gives its upload slot back
FILENAME_CHARACTERS_MAX = 255
NOT_JSONL = "Invalid file format for Batch API. Must be .jsonl."


@dataclass(slots=True)
class Upload:
    """A form read to its end. Its file is on disk and not yet durable: ``keep`` makes it so."""

    file_id: str
    fields: dict[str, str]
    filename: str
    size_bytes: int
    lines: int  #: that are not blank
    first_line: bytes  #: the first that is not blank; empty when it is too long to be held
    _sink: _Sink

    async def keep(self) -> str:
        """Make the file durable under ``file_id``; answer its SHA-256 as hex."""
        sha256 = await in_thread(self._sink.commit)
        crash_point("upload.kept")
        return sha256


@asynccontextmanager
async def received(request: Request, door: Door, fields: tuple[str, ...]) -> AsyncIterator[Upload]:
    """The form of ``request``: one ``file`` and, beside it, only ``fields``.

    When the block raises, the file goes, kept or not. Raises BadRequest, TooLarge, and Unavailable when the
    disk is full.
    """
    _check_length(request, door)
    file_id = new_file_id()
    sink = _Sink(door.blobs, file_id, door.settings.api.upload_bytes_max, door.settings.intake.line_bytes_max)
    try:
        with _disk_full_is_unavailable():
            form = _Form(fields, sink)
            reader = MultipartReader(request.headers.get("content-type", ""))
            async for block in _blocks(request):
                for piece in reader.feed(block):
                    form.take(piece)
                if sink.pending_bytes >= WRITE_BYTES:
                    await in_thread(sink.write_pending)
            reader.finish()
            await in_thread(sink.finish)
            upload = Upload(
                file_id,
                form.fields,
                form.filename(),
                sink.size_bytes,
                sink.lines,
                sink.first_line,
                sink,
            )
            yield upload
    except BaseException:
        await in_thread(sink.discard)
        raise


def _check_length(request: Request, door: Door) -> None:
    """Refuse what is too long before reading it; a length not given, or not true, is found out later."""
    length = request.headers.get("content-length", "")
    most = door.settings.api.upload_bytes_max
    if length.isdigit() and int(length) > most + FORM_BYTES_MAX:
        raise _too_large(f"is {int(length):,} bytes long", most)


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
        f"This upload {found}; a file may have {most:,} bytes (setting api.upload_bytes_max). "
        "Split it into several files, each with a batch of its own.",
        param="file",
        code="file_too_large",
    )


@contextmanager
def _disk_full_is_unavailable() -> Iterator[None]:
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


@dataclass(slots=True)
class _Form:
    """Sorts the pieces of a form: text into ``fields``, the file into the sink."""

    known: tuple[str, ...]
    sink: _Sink
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
                "Missing required parameter: 'file'. Send it as a file part of the form, with a filename.",
                param="file",
                code="missing_required_parameter",
            )
        name = PurePosixPath(self._filename.replace("\\", "/")).name
        return name[:FILENAME_CHARACTERS_MAX] or "upload.jsonl"

    @property
    def _in_file(self) -> bool:
        return self._part is not None and self._part.filename is not None

    def _begin(self, part: PartBegun) -> None:
        is_file = part.filename is not None
        if is_file and (part.name != "file" or self._filename is not None):
            message = f"Expected one file part named 'file', but found another named '{part.name[:200]}'."
            raise BadRequest(message, param=part.name[:200], code="unknown_parameter")
        if not is_file and part.name not in self.known:
            message = f"Unknown parameter: '{part.name[:200]}'. Known are: file, {', '.join(self.known)}."
            raise BadRequest(message, param=part.name[:200], code="unknown_parameter")
        self._part = part
        self._filename = part.filename if is_file else self._filename

    def _add_text(self, block: bytes) -> None:
        self._field_bytes += len(block)
        if self._field_bytes > FORM_BYTES_MAX:
            raise TooLarge(f"The fields of a form may have {FORM_BYTES_MAX:,} bytes; these are longer.")
        self._text += block


class _Sink:
    """The file's bytes: gathered on the event loop, written in threads, one call at a time."""

    def __init__(self, blobs: BlobStore, file_id: str, bytes_max: int, line_bytes_max: int) -> None:
        self._blobs = blobs
        self._file_id = file_id
        self._bytes_max = bytes_max
        self._line_bytes_max = line_bytes_max
        self._writer: BlobWriter | None = None
        self._pending: list[bytes] = []
        self._head: bytearray | None = bytearray()  #: the file's begin, until its first line is judged
        self._committed = False
        self.pending_bytes = 0
        self.size_bytes = 0
        self._count = LineCount()
        self.first_line = b""

    @property
    def lines(self) -> int:
        return self._count.lines

    def add(self, block: bytes) -> None:
        self.size_bytes += len(block)
        if self.size_bytes > self._bytes_max:
            raise _too_large(f"has more than {self._bytes_max:,} bytes", self._bytes_max)
        self._pending.append(block)
        self.pending_bytes += len(block)

    def write_pending(self) -> None:
        block = b"".join(self._pending)
        self._pending.clear()
        self.pending_bytes = 0
        if not block:
            return
        if self._writer is None:
            self._writer = self._blobs.writer(self._file_id).__enter__()
        if self._head is not None:
            self._read_head(self._head, block)
        self._writer.write(block)
        self._count.feed(block)

    def finish(self) -> None:
        """After the last block: nothing is pending and the first line is judged. Raises BadRequest."""
        self.write_pending()
        if self._head is not None:
            self._judge(bytes(self._head))

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

    def _read_head(self, head: bytearray, block: bytes) -> None:
        if not head:
            block = block.lstrip(b"\r\n\t ")
        head += block
        if b"\n" in block or len(head) > self._line_bytes_max:
            self._judge(bytes(head))

    def _judge(self, head: bytes) -> None:
        self._head = None
        line = next(read_lines([head], self._line_bytes_max), None)
        if line is None:
            raise _not_jsonl("it holds no line that is not blank")
        if line.text is None:  # longer than a request may be: intake names it and its length
            return
        try:
            msgspec.json.decode(line.text, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _not_jsonl("its first line is not JSON") from None
        self.first_line = line.text


def _not_jsonl(found: str) -> BadRequest:
    return BadRequest(f"{NOT_JSONL} Expected one JSON object a line; {found}.", param="file")
