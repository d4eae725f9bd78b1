from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybatch.wire import custom_ids as module
from raybatch.wire.custom_ids import CustomIds


def repeats_of(ids: list[str | None]) -> list[tuple[int, int]]:
    seen = CustomIds()
    for custom_id in ids:
        seen.add(custom_id)
    found = seen.repeats(iter(ids))
    return list(zip(found.row.tolist(), found.first_row.tolist(), strict=True))


def repeats_by_dict(ids: list[str | None]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [
        (row, first[custom_id])
        for row, custom_id in enumerate(ids)
        if custom_id is not None and first.setdefault(custom_id, row) != row
    ]


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from("abcdefgh") | st.text(max_size=2)))
def test_repeats_are_those_a_dictionary_finds(ids: list[str | None]) -> None:
    assert repeats_of(ids) == repeats_by_dict(ids)


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash", lambda _: 7, raising=False)
    assert repeats_of(["a", "b", None, "a", "c", "b", "a"]) == [(3, 0), (5, 1), (6, 0)]


def test_ids_are_not_asked_for_again_when_all_hashes_differ() -> None:
    seen = CustomIds()
    for number in range(1_000):
        seen.add(str(number))

    def unread() -> str:
        raise AssertionError("read")

    assert len(seen.repeats(unread() for _ in range(1))) == 2
