"""What goes: deleted by its owner, or because it has outlived its time. Never what a batch still needs.

Files without ``expires_at`` stay for ever, and so do batches unless the policy says otherwise. When a file
expires is settled as it comes to be: a later change of ``scheduler.keep_files_days`` moves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raybatch.core import changes as c
from raybatch.core import commands as cmd
from raybatch.core import events as e
from raybatch.core.decision import Decision
from raybatch.core.model import Batch, File
from raybatch.core.policy import Policy
from raybatch.core.state import State

DAY_S: Final = 86_400.0
DELETED_AT_ONCE_MAX: Final = 100  #: of files, and of batches: one commit stays small, the next follows soon


def outlived(state: State, now: e.Now, policy: Policy) -> Decision:
    """Files past their ``expires_at``, and batches that ended ``keep_batches_days`` ago."""
    files = [file for file in state.files.values() if not file.deleted and _expired(file, now)]
    batches = [batch for batch in state.batches.values() if _too_old(batch, now, policy)]
    return gone(state, batches[:DELETED_AT_ONCE_MAX], files[:DELETED_AT_ONCE_MAX])


def gone(state: State, batches: Sequence[Batch], files: Sequence[File]) -> Decision:
    """Forget ended batches, and serve ``files`` no more.

    An upload's bytes go with the last batch that refers to it, once its owner has deleted it or it expired.
    """
    going = {batch.batch_id for batch in batches}
    needed = {batch.input_file_id for batch in state.batches.values() if batch.batch_id not in going}
    left = [file for file in files if file.batch_id not in going]  # the others go with their batches
    hidden = [file.file_id for file in left if file.batch_id is not None or file.file_id in needed]
    named = dict.fromkeys((*(file.file_id for file in left), *_hidden_inputs(state, batches)))
    removed = [file_id for file_id in named if file_id not in needed and file_id not in hidden]
    return Decision(
        (
            *(c.BatchDeleted(batch.batch_id) for batch in batches),
            *(c.FileHidden(file_id) for file_id in hidden),
            *(c.FileRemoved(file_id) for file_id in removed),
        ),
        (
            *(cmd.RemoveBatch(batch.batch_id, _paths(state, batch)) for batch in batches),
            *(cmd.RemoveBlob(file_id) for file_id in removed),
        ),
    )


def _expired(file: File, now: e.Now) -> bool:
    return file.expires_at is not None and file.expires_at <= now.wall


def _too_old(batch: Batch, now: e.Now, policy: Policy) -> bool:
    keep_s = policy.keep_batches_days * DAY_S
    return keep_s > 0 and batch.ended_at is not None and batch.ended_at + keep_s <= now.wall


def _hidden_inputs(state: State, batches: Sequence[Batch]) -> list[str]:
    """Uploads that only these batches kept: their owner has deleted them."""
    files = [state.files.get(batch.input_file_id) for batch in batches]
    return [file.file_id for file in files if file is not None and file.deleted and file.batch_id is None]


def _paths(state: State, batch: Batch) -> tuple[str, ...]:
    return tuple(part.path for part in state.parts.get(batch.batch_id, {}).values())
