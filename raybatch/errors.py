"""Every exception raybatch raises on purpose, in one tree, each with the HTTP status it answers with.

RaybatchError
├── ClientError            the caller can mend it
│   ├── BadRequest    400
│   ├── Unauthorized  401
│   ├── NotFound      404
│   ├── Conflict      409
│   └── TooLarge      413
├── Refused                not now: the caller may come back
│   ├── Busy          429
│   └── Unavailable   503
├── OperatorError          the person who runs raybatch can mend it (settings, ports, disk, model)
├── IllegalMove            a transition that the lifecycle tables do not hold: a defect, never a client's
fault ├── EngineFailed           an engine could not start; the message says why
├── EngineDied             an engine was lost with rows in flight; no row is answered
├── DiskFull               nothing was written; free space and the same call succeeds
├── InUse                  another process has it open; it may let go
└── Corrupt                stored bytes are not what was committed
"""

from __future__ import annotations


class RaybatchError(Exception):
    """Root of the tree. ``message`` is fit to be shown to whoever can mend the fault."""

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ClientError(RaybatchError):
    status = 400
    type = "invalid_request_error"


class BadRequest(ClientError):
    status = 400


class Unauthorized(ClientError):
    status = 401


class NotFound(ClientError):
    status = 404


class Conflict(ClientError):
    status = 409


class TooLarge(ClientError):
    status = 413


class Refused(RaybatchError):
    """``retry_after_s``: whole seconds after which trying again may succeed."""

    def __init__(
        self, message: str, *, retry_after_s: int, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s


class Busy(Refused):
    status = 429
    type = "rate_limit_error"


class Unavailable(Refused):
    status = 503
    type = "service_unavailable_error"


class OperatorError(RaybatchError):
    """Shown by the command line as it is, without a traceback."""


class IllegalMove(RaybatchError):
    pass


class EngineFailed(RaybatchError):
    pass


class EngineDied(RaybatchError):
    pass


class DiskFull(RaybatchError):
    pass


class InUse(RaybatchError):
    pass


class Corrupt(RaybatchError):
    pass
