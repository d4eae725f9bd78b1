"""A multipart form as it arrives: which parts it has, and their bytes. Holds one block at a time.

Refuses to keep anything and to judge fields: who reads it does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from raybatch.errors import BadRequest


@dataclass(frozen=True, slots=True)
class PartBegun:
    name: str
    filename: str | None  #: None for a plain field


@dataclass(frozen=True, slots=True)
class PartBytes:
    block: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    pass


Piece = PartBegun | PartBytes | PartEnded


class MultipartReader:
    """Feed it the body block by block. Raises BadRequest for what is not a multipart form."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequest(
                f"Expected a multipart/form-data body with a boundary, but its Content-Type is "
                f"'{content_type[:200]}'."
            )
        self._pieces: list[Piece] = []
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_text,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise BadRequest(f"This is not a multipart form: {error}.") from None

    def feed(self, block: bytes) -> list[Piece]:
        """What ``block`` brought, in order."""
        try:
            self._parser.write(block)
        except FormParserError as error:
            raise BadRequest(f"This is not a multipart form: {error}.") from None
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> None:
        """Raises BadRequest when the body stopped before its closing boundary."""
        if not self._ended:
            raise BadRequest("The multipart form ends before its closing boundary: the body was cut short.")

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_field(self, block: bytes, start: int, end: int) -> None:
        self._header_name += block[start:end]

    def _header_text(self, block: bytes, start: int, end: int) -> None:
        self._header_value += block[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, filename = options.get(b"name"), options.get(b"filename")
        if name is None:
            raise BadRequest("A part of the multipart form has no name in its Content-Disposition.")
        shown = None if filename is None else filename.decode(errors="replace")
        self._pieces.append(PartBegun(name.decode(errors="replace"), shown))

    def _part_data(self, block: bytes, start: int, end: int) -> None:
        self._pieces.append(PartBytes(block[start:end]))

    def _part_end(self) -> None:
        self._pieces.append(PartEnded())

    def _end(self) -> None:
        self._ended = True
