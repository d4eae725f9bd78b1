"""Questions whose answers are known, so that a demo batch can be scored instead of admired.

Places, codes and languages come from pycountry, capitals from the table below. Most answers stand in the
question, so that a model of 135M parameters finds them; capitals it must know and often does not. An answer
is seldom right for another question. Every line carries its answer as request ``metadata``: engines ignore
it, the upload keeps it, SQL reads it.
It refuses to ask a model anything and to write files.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pycountry

from raybatch.errors import OperatorError

MAX_ROWS = 1_000_000

#: One line per kind of question and, last, one for all of them. ``score`` is the share of texts that contain
#: their own answer, ``permuted_score`` the share that contain the answer of the next question of the same
#: kind: what a model that does not read the question would get. A row without a text counts as wrong.
SCORE_SQL = """\
WITH answered AS (
    SELECT batch_id, index, coalesce(r.text, '') AS text,
           q.body->>'$.metadata.kind' AS kind, q.body->>'$.metadata.answer' AS answer
    FROM results r JOIN requests q USING (batch_id, index)
    WHERE answer IS NOT NULL
), paired AS (
    SELECT *, lead(answer) OVER (PARTITION BY batch_id, kind ORDER BY index) AS other_answer
    FROM answered
)
SELECT coalesce(kind, 'all') AS kind,
       count(*) AS rows,
       round(avg(contains(lower(text), lower(answer))::INT), 3) AS score,
       round(avg(contains(lower(text), lower(other_answer))::INT), 3) AS permuted_score
FROM paired
GROUP BY ROLLUP (kind)
ORDER BY kind = 'all', kind
"""


def questions(rows: int, model: str, seed: int = 0) -> Iterator[bytes]:
    """Yield ``rows`` lines of an OpenAI batch input, without newlines, no two custom_ids or questions alike.

    The same arguments give the same bytes; a longer run starts with the lines of a shorter one. Memory does
    not grow with ``rows``. Raises OperatorError when ``rows`` is outside 1..MAX_ROWS.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise OperatorError(f"rows is {rows:,}; demo questions come in 1 to {MAX_ROWS:,} rows")
    return _lines(rows, model, seed)


#: A subject is what a question is about: the words that its kind's template needs.
_Subject = dict[str, str]

_NUMBERS = range(1_000, 10_000)  #: of parcels, books and trips: with them no two questions are alike


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    template: str
    answer: str  #: which of the template's fields is asked for
    subjects: list[_Subject]
    examples: list[
        _Subject
    ]  #: answered in every prompt, never asked; just enough to fill a prefix block of 128


def _lines(rows: int, model: str, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    kinds = _kinds()
    prefixes = [_prefix(kind) for kind in kinds]
    subjects = [_drawn(kind, rng) for kind in kinds]
    for row in range(rows):
        turn = row % len(kinds)
        kind, subject = kinds[turn], next(subjects[turn])
        body = {
            "model": model,
            "messages": [*prefixes[turn], _message("user", kind.template.format_map(subject))],
            "temperature": 0,
            "max_tokens": 16,
            "metadata": {"kind": kind.name, "answer": subject[kind.answer]},
        }
        yield msgspec.json.encode(
            {
                "custom_id": f"{kind.name}-{row:07d}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        )


def _kinds() -> list[_Kind]:
    places, example_places = _split(_places(), "code", _EXAMPLE_PLACES)
    languages, example_languages = _split(_languages(), "language", _EXAMPLE_LANGUAGES)
    capitals, example_capitals = _split(_capitals(), "country", _EXAMPLE_CAPITALS)
    return [
        _Kind("code", "Parcel {number} goes to {place} ({code}). Code?", "code", places, example_places),
        _Kind("place", "Parcel {number} goes to {place}, {country}. Place?", "place", places, example_places),
        _Kind(
            "country",
            "Parcel {number} goes to {place}, {country}. Country?",
            "country",
            places,
            example_places,
        ),
        _Kind("number", "Parcel {number} goes to {place}. Number?", "number", places, example_places),
        _Kind(
            "language",
            "Book {number} is written in {language}. Language?",
            "language",
            languages,
            example_languages,
        ),
        _Kind(
            "capital",
            "Trip {number} goes to {country}. Capital?",
            "capital",
            capitals,
            example_capitals,
        ),
    ]


def _prefix(kind: _Kind) -> list[dict[str, str]]:
    messages = [_message("system", "Answer.")]
    for position, example in enumerate(kind.examples):
        subject = {**example, "number": str(_NUMBERS[2_345 + 1_357 * position])}
        messages.append(_message("user", kind.template.format_map(subject)))
        messages.append(_message("assistant", subject[kind.answer]))
    return messages


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _drawn(kind: _Kind, rng: random.Random) -> Iterator[_Subject]:
    """Yield every pair of a subject and a number once, in a shuffled order that needs no memory.

    A step that shares no factor with the number of pairs visits them all, and every subject once before any
    comes again.
    """
    subjects = kind.subjects.copy()
    rng.shuffle(subjects)
    pairs = len(subjects) * len(_NUMBERS)
    at, step = rng.randrange(pairs), rng.randrange(pairs // 4, pairs // 2)
    while math.gcd(step, pairs) != 1:
        step += 1
    for _ in range(pairs):
        number, subject = divmod(at, len(subjects))
        yield {**subjects[subject], "number": str(_NUMBERS[number])}
        at = (at + step) % pairs


def _split(
    subjects: list[_Subject], key: str, examples: tuple[str, ...]
) -> tuple[list[_Subject], list[_Subject]]:
    """Separate the subjects to ask about from those to show, the latter in the order of ``examples``."""
    by_key = {subject[key]: subject for subject in subjects}
    return [s for s in subjects if s[key] not in examples], [by_key[key] for key in examples]


def _places() -> list[_Subject]:
    """Places by name; of two with the same name one is kept, for a question names them by nothing else."""
    countries = {c.alpha_2: getattr(c, "common_name", c.name) for c in pycountry.countries}
    by_name = {
        s.name: {"place": s.name, "code": s.code, "country": countries[s.country_code]}
        for s in pycountry.subdivisions
        if _plain(s.name) and _plain(countries[s.country_code])
    }
    return list(by_name.values())


def _languages() -> list[_Subject]:
    return [{"language": language.name} for language in pycountry.languages if _plain(language.name)]


def _capitals() -> list[_Subject]:
    return [{"country": country, "capital": capital} for country, capital in _CAPITALS.items()]


def _plain(name: str) -> bool:
    """Long enough not to turn up in other answers by accident, short enough for ``max_tokens``."""
    return 4 <= len(name) <= 16 and not any(mark in name for mark in ",;()[]/*†")


_EXAMPLE_PLACES = ("IT-AT", "US-TX", "IN-KL", "IE-D")
_EXAMPLE_LANGUAGES = ("Zulu", "Tamil", "Irish", "Thai", "Breton")
_EXAMPLE_CAPITALS = ("Japan", "France", "Egypt", "Peru", "Norway")

_CAPITALS = {
    "Afghanistan": "Kabul",
    "Argentina": "Buenos Aires",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Bulgaria": "Sofia",
    "Chile": "Santiago",
    "China": "Beijing",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "England": "London",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Indonesia": "Jakarta",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Lebanon": "Beirut",
    "Nepal": "Kathmandu",
    "Netherlands": "Amsterdam",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Philippines": "Manila",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Scotland": "Edinburgh",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Syria": "Damascus",
    "Thailand": "Bangkok",
    "Ukraine": "Kyiv",
    "Venezuela": "Caracas",
}
