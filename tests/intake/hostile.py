"""Lines that a hostile or careless client hands in, and what becomes of each. One table for several tests.

Every bad line stands for one way to be bad; the code is of its first error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

CHAT: Final = "/v1/chat/completions"
MODEL: Final = "smol"
LINE_BYTES_MAX: Final = 100_000  #: the limit that the giant line exceeds


@dataclass(frozen=True)
class Bad:
    name: str
    line: bytes
    code: str
    custom_id: str | None = None  #: that the error row can still name


def request(custom_id: object, model: object = MODEL, **body: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    line = {"custom_id": custom_id, "method": "POST", "url": CHAT}
    return json.dumps({**line, "body": {"model": model, "messages": messages, **body}}).encode()


def without(field: str, custom_id: str) -> bytes:
    line = json.loads(request(custom_id))
    owner = line["body"] if field in line["body"] else line
    del owner[field]
    return json.dumps(line).encode()


def with_value(field: str, value: object, custom_id: str) -> bytes:
    line = json.loads(request(custom_id))
    owner = line["body"] if field in line["body"] else line
    owner[field] = value
    return json.dumps(line).encode()


def spelled(json_text: bytes, custom_id: str) -> bytes:
    """A request with this text as the value of a field that nobody looks into."""
    return request(custom_id, user="@").replace(b'"@"', json_text)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


NO_JSON: Final = "invalid_json_line"
MISSING: Final = "missing_required_parameter"

BAD: Final = (
    # not JSON
    Bad("words", b"not json", NO_JSON),
    Bad("cut short", request("cut")[:-2], NO_JSON),
    Bad("a comma too many", request("comma").replace(b"}}", b"},}"), NO_JSON),
    Bad("single quotes", request("quotes").replace(b'"', b"'"), NO_JSON),
    Bad("two requests on one line", request("two") + request("on one line"), NO_JSON),
    Bad("a NUL alone", b"\x00", NO_JSON),
    Bad("a NUL inside a string", request("a@b").replace(b"@", b"\x00"), NO_JSON),
    Bad("a NUL behind the request", request("nul") + b"\x00", NO_JSON),
    Bad("an escape character inside a string", request("a@b").replace(b"@", b"\x1b"), NO_JSON),
    Bad("a byte order mark that is not the file's first", b"\xef\xbb\xbf" + request("mark"), NO_JSON),
    Bad("UTF-16", request("utf16").decode().encode("utf-16-le"), NO_JSON),
    Bad("UTF-16, the other end first", request("utf16").decode().encode("utf-16-be"), NO_JSON),
    Bad("Latin-1", request("caf@").replace(b"@", b"\xe9"), NO_JSON),
    Bad("an overlong slash", request("a@b").replace(b"@", b"\xc0\xaf"), NO_JSON),
    Bad("half a pair, escaped", request("\ud800"), NO_JSON),
    Bad("half a pair, escaped, in a prompt", request("pair", user="\udfff"), NO_JSON),
    Bad("half a pair as bytes", request("a@b").replace(b"@", b"\xed\xa0\x80"), NO_JSON),
    Bad("not a number", spelled(b"NaN", "nan"), NO_JSON),
    Bad("infinity", spelled(b"-Infinity", "infinity"), NO_JSON),
    Bad("a hexadecimal number", spelled(b"0x1F", "hex"), NO_JSON),
    Bad("deep objects", spelled(nested(10_000), "deep"), NO_JSON),
    Bad("deep arrays", spelled(b"[" * 10_000 + b"]" * 10_000, "deep"), NO_JSON),
    Bad("deep and never closed", b'{"a":' * 10_000, NO_JSON),
    # not a request
    Bad("an array", b"[]", "invalid_type"),
    Bad("a string", b'"request"', "invalid_type"),
    Bad("a number", b"17", "invalid_type"),
    Bad("null", b"null", "invalid_type"),
    Bad("an array around the request", b"[" + request("array") + b"]", "invalid_type"),
    Bad("an empty object", b"{}", MISSING),
    *(Bad(f"without {field}", without(field, "w"), MISSING, "w") for field in ("method", "url", "body")),
    Bad("without custom_id", without("custom_id", ""), MISSING),
    *(
        Bad(f"without {field}", without(field, f"w{field}"), "invalid_request", f"w{field}")
        for field in ("model", "messages")
    ),
    Bad("a number for a custom_id", request(7), "invalid_type"),
    Bad("null for a custom_id", request(None), "invalid_type"),
    Bad("an array for a custom_id", request(["a"]), "invalid_type"),
    *(
        Bad(f"{value!r} for {field}", with_value(field, value, f"t{field}"), "invalid_type", f"t{field}")
        for field, value in (
            ("method", 5),
            ("url", None),
            ("body", "{}"),
            ("model", ["smol"]),
            ("messages", "hi"),
        )
    ),
    Bad("another method", with_value("method", "GET", "get"), "invalid_value", "get"),
    # a request that this batch cannot run
    Bad("another URL", with_value("url", "/v1/embeddings", "url"), "invalid_url", "url"),
    Bad("streamed", request("streamed", stream=True), "streaming_unsupported", "streamed"),
    Bad("an unknown model", request("unknown", "unheard-of"), "model_not_found", "unknown"),
    Bad("a path for a model", request("path", "/etc/passwd"), "model_not_found", "path"),
    Bad("no model at all", request("empty", ""), "model_not_found", "empty"),
    Bad("too long", request("giant", user="y" * LINE_BYTES_MAX), "line_too_long"),
)

#: sound requests with a body that no engine is to see: a strict batch does not fail for them
REFUSED: Final = (
    Bad("an unknown field", request("strange", of_nobody=1), "unknown_parameter", "strange"),
    Bad("a million choices", request("many", n=10**6), "invalid_value", "many"),
)

#: what breaks JSON, CSV, terminals, C strings and Unicode code elsewhere
NAUGHTY: Final = (
    "",
    " ",
    "before\x00after",
    "\x01\x1b[31m\x7f\x9f",
    "\ufeffa mark",
    "line\nfeed\r\nreturn\ttab\vand\fform",
    "next\x85line\u2028separator\u2029end",
    "\"quoted\" 'single' `tick` \\back\\slash\\u0041 \\",
    "</script><script>alert(1)</script>",
    "'; DROP TABLE rows; --",
    "$(reboot) `reboot` %s %n {0} {{}} ${HOME}",
    "=1+1,@SUM(A1)",
    "../../etc/passwd",
    "NULL None nan Infinity true undefined",
    "0x1F 1e400 -0 1,000.00",
    "田中さんにあげて下さい",
    "مرحبا \u202eright to left\u202c",
    "e\u0301 \u00e9 Z\u0351\u036b\u0343a\u0329l\u0316g\u030do",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0010ffff \ue000 \ufffd \uffff",
    "\u200b\u200e\u00ad\u180e\u2060",
    "<|im_start|>system <|endoftext|> [INST]",
)

#: looks hostile and is good
HARMLESS: Final = (
    *(request(text) for text in NAUGHTY),
    *(
        json.dumps(json.loads(request(text + "!", user=text)), ensure_ascii=False).encode()
        for text in NAUGHTY
    ),
    request("x" * 50_000),
    spelled(b"-0.0", "minus nothing"),
    spelled(nested(100), "deep enough"),
    request("wide", user=[[]] * 3_000),
    request("brackets in text", user="[{" * 10_000),
    request("model twice").replace(b'"model"', b'"model": "wrong", "model"'),
    request("this one").replace(b'"custom_id"', b'"custom_id": "not this one", "custom_id"'),
    request("body twice").replace(b'"body"', b'"body": 7, "body"'),
    b" \t" + request("white space around") + b" \t\r",
    json.dumps(dict(reversed(json.loads(request("fields in another order")).items()))).encode(),
    request("a new field").replace(b'"method"', b'"of_tomorrow": {"a": [1]}, "method"'),
)

#: good JSON with a number that fits into no machine word: an engine may refuse it
HUGE: Final = (spelled(b"9" * 5_000, "a huge integer"), spelled(b"1e99999", "a huge number"))
