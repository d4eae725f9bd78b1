"""The crash load on Celery with Redis, set up as Celery's documentation says for tasks that must not be lost.

Run in the environment of requirements/queues.sh: ``celery --app=jobs.celery_arm worker``.
"""

from __future__ import annotations

import os
import sys
import time

from celery import Celery  # type: ignore[import-not-found]

from jobs.queues_row import ROW_S, TASK, begin, end

VISIBILITY_S = 10  #: far more than a row takes; an unacknowledged row is handed out again after it

app = Celery("queues", broker=os.environ["QUEUES_BROKER"], backend=os.environ["QUEUES_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ.get("QUEUES_PREFETCH", "1")),
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend_always_retry=True,
    # By default Redis is asked for such rows every 100 s; that would be slower than this short timeout.
    broker_transport_options={
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    result_backend_transport_options={"visibility_timeout": VISIBILITY_S},
    visibility_timeout=VISIBILITY_S,
)


def run_row(number: int) -> str:
    begin()
    if ROW_S:
        time.sleep(ROW_S)
    end(number)
    return f"echo: {number}"


row = app.task(name=TASK)(run_row)


def fill(first: int, rows: int) -> None:
    """Put rows in, each under a task id that says which it is, once stdin has a line or ends."""
    print("ready", flush=True)
    sys.stdin.readline()
    with app.producer_or_acquire() as producer:
        for number in range(first, first + rows):
            row.apply_async((number,), task_id=str(number), producer=producer)
