"""The crash load on Procrastinate with PostgreSQL, set up as its documentation recommends for stalled jobs.

Run in the environment of requirements/queues.sh: ``procrastinate --app=jobs.procrastinate_arm.app worker``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]

from jobs.queues_row import ROW_S, TASK, begin, end

HEARTBEAT_S = 1.0
STALLED_S = 5.0  #: without a heartbeat
EVERY_TWO_SECONDS = "* * * * * */2"  #: the sixth field is seconds

app = App(
    connector=PsycopgConnector(conninfo=os.environ["QUEUES_DATABASE"]),
    worker_defaults={"update_heartbeat_interval": HEARTBEAT_S, "stalled_worker_timeout": STALLED_S},
)


async def run_row(number: int) -> None:
    begin()
    if ROW_S:
        await asyncio.sleep(ROW_S)
    end(number)


async def retry_stalled(context: Any, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_S):
        await app.job_manager.retry_job(job)


row = app.task(name=TASK)(run_row)
app.periodic(cron=EVERY_TWO_SECONDS)(
    app.task(queueing_lock="retry_stalled", pass_context=True)(retry_stalled)
)


def fill(first: int, rows: int) -> None:
    """Put rows in with one statement, the fastest way there is, once stdin has a line or ends."""
    with app.open():
        print("ready", flush=True)
        sys.stdin.readline()
        row.batch_defer(*({"number": number} for number in range(first, first + rows)))
