"""Every refusal as OpenAI's error envelope, whichever layer it comes from."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from raybatch.errors import RaybatchError
from raybatch.wire.envelope import envelope, error_answer
from serve_app.answers import broken
from serve_app.methods import allowed

logger = logging.getLogger(__name__)

PATH_CHARACTERS_SHOWN = 200


def add_fault_answers(app: FastAPI) -> None:
    app.add_exception_handler(RaybatchError, _raybatch_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _bad_parameter)


async def _raybatch_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RaybatchError)
    if error.status >= 500 and error.status != 503:
        request_id: str = request.state.request_id
        logger.error("%s %s, request id %s", request.method, request.url.path, request_id, exc_info=error)
        return broken(request_id)
    status, headers, body = error_answer(error)
    return JSONResponse(body, status, headers)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, headers, code = request.url.path[:PATH_CHARACTERS_SHOWN], error.headers, None
    if error.status_code == 404:
        message = f"Invalid URL ({request.method} {path})"
    elif error.status_code == 405:
        headers = {"Allow": allowed(request)}
        message = f"Not allowed to {request.method} on {path}. Allowed: {headers['Allow']}."
        code = "method_not_supported"
    else:
        message = str(error.detail)
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return JSONResponse(envelope(message, kind, code=code), error.status_code, headers)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    """OpenAI answers 400 where FastAPI would say 422."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(place) for place in first["loc"][1:])
    found = "" if first["type"] == "missing" else f", but got '{str(first.get('input'))[:200]}'"
    message = f"Invalid '{name}': {first['msg']}{found}."
    return JSONResponse(envelope(message, "invalid_request_error", param=name, code="invalid_value"), 400)
