"""The columns of a ledger table are the fields of its entity, by name and in order."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from raybatch.core.model import Batch, Chunk, File, PartFile, Tally, Usage
from raybatch.core.state import State
from raybatch.ledger.rows import TABLES

#: fields that lie in several columns, or under a name that says how they are written
SPREAD: dict[str, list[str]] = {
    "tally": [field.name for field in fields(Tally) if field.name != "usage"]
    + [field.name for field in fields(Usage)],
    "covered": ["covered_hex"],
    "exposed": ["exposed_hex"],
}


@pytest.mark.parametrize(
    ("table", "entity", "added"),
    [
        ("files", File, set()),
        ("batches", Batch, set()),
        ("chunks", Chunk, set()),
        ("parts", PartFile, {"batch_id"}),
    ],
)
def test_the_columns_are_the_fields(table: str, entity: type, added: set[str]) -> None:
    assert is_dataclass(entity)
    expected = [name for field in fields(entity) for name in SPREAD.get(field.name, [field.name])]
    columns = [name for name, _ in TABLES[table].columns]
    assert [name for name in columns if name not in added] == expected
    assert added <= set(columns)
    assert TABLES[table].key == columns[0]


def test_every_counter_is_a_field_of_the_state() -> None:
    counters = {str(image.key) for image in State().images() if image.table == "counters"}
    known = {field.name for field in fields(State)}
    assert counters <= known
    assert counters == {name for name in known if name.startswith("next_")} | {"all_paused"}
