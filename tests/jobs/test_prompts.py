from __future__ import annotations

import json

from jobs.prompts import OUTPUT_TOKENS, prompts, upload


def test_a_seed_always_gives_the_same_prompts_and_another_one_none_of_them() -> None:
    again, other = prompts(200, seed=1), prompts(200, seed=2)

    assert prompts(200, seed=1) == again
    assert not {prompt.text for prompt in again} & {prompt.text for prompt in other}


def test_answer_lengths_are_mixed_and_heavy_tailed() -> None:
    lengths = sorted(prompt.tokens for prompt in prompts(1000, seed=0))

    shortest, longest = OUTPUT_TOKENS
    assert shortest <= lengths[0] < lengths[100] < lengths[500] < lengths[-1] <= longest
    assert lengths[-50] >= 2.5 * lengths[500]


def test_the_upload_prescribes_each_length() -> None:
    wanted = prompts(20, seed=0)

    lines = [json.loads(line) for line in upload("m", wanted).splitlines()]

    asked = [(line["body"]["prompt"], line["body"]["max_tokens"]) for line in lines]
    assert asked == [(prompt.text, prompt.tokens) for prompt in wanted]
    assert all(line["body"]["ignore_eos"] and line["body"]["model"] == "m" for line in lines)
    assert len({line["custom_id"] for line in lines}) == len(lines)
