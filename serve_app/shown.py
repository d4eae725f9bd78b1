"""A batch as every answer shows it: OpenAI's object, with what is ours under ``raybatch``."""

from __future__ import annotations

import time

from raybatch.actors.reads import BatchView
from raybatch.core.estimate import Estimate
from raybatch.wire.openai_objects import Json, batch_object


def shown(view: BatchView, **more: object) -> Json:
    """``more``: further fields of ours."""
    batch = view.batch
    return batch_object(
        batch,
        {
            "tenant": batch.tenant,
            "priority": batch.priority,
            "validation": batch.validation,
            "round": batch.round,
            "paused": batch.active and (batch.paused_at is not None or view.all_paused),
            "rows_per_s": round(view.rows_per_s, 3),
            "tokens_per_s": round(view.tokens_per_s, 3),
            "eta": _eta(view.eta),
            "eta_s": None if view.eta is None else round(view.eta.p50_s, 1),
            **more,
        },
    )


def _eta(eta: Estimate | None) -> Json | None:
    """How long it takes yet and when it will have ended: as a median, and so that nine of ten end sooner."""
    if eta is None:
        return None
    now = time.time()
    return {
        "p50_s": round(eta.p50_s, 1),
        "p90_s": round(eta.p90_s, 1),
        "p50_at": int(now + eta.p50_s),
        "p90_at": int(now + eta.p90_s),
    }
