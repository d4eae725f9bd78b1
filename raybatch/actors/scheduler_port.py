"""What the HTTP door, the engines and the chores may ask of the scheduler, whichever process it lives in."""

from __future__ import annotations

from typing import Any, Protocol

from raybatch import errors
from raybatch.core.commands import Rejection
from raybatch.core.events import Event


class SchedulerPort(Protocol):
    async def ask(self, event: Event) -> Any:
        """Hand in an event; return the reply's value once the decision is remembered.

        Events without ``reply_to`` return None when remembered. Raises the error a Rejection names, and
        Unavailable when the scheduler cannot be reached: asking again is safe.
        """
        ...

    async def read(self, what: str, *args: Any) -> Any:
        """One of the functions of ``reads`` by name, without its first argument; or "view" (tenant, batch_id)
        -> BatchView, "views" (tenant, after, limit) -> Page[BatchView], "overview" () -> Overview.

        Raises as ``ask`` does.
        """
        ...


def raise_rejection(value: Any) -> Any:
    """``value`` itself, unless it is a Rejection: then the error it names is raised."""
    if not isinstance(value, Rejection):
        return value
    kind = getattr(errors, value.kind)
    if issubclass(kind, errors.Refused):
        raise kind(value.message, retry_after_s=value.retry_after_s or 1, param=value.param, code=value.code)
    raise kind(value.message, param=value.param, code=value.code)
