"""LiteLLM with our URL as its `api_base`: litellm_client.py, each of its tests as one here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.conftest import Server
from tests.compat.foreign import CLIENTS, names, outcomes

pytestmark = pytest.mark.cluster

PROGRAM = Path(__file__).with_name("litellm_client.py")
PYTHON = CLIENTS / "python" / "bin" / "python"


@pytest.fixture(scope="module")
def ran(server: Server) -> dict[str, str]:
    nothing_from_elsewhere = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    bytecode_kept = {"PYTHONDONTWRITEBYTECODE": ""}  # else each run compiles LiteLLM anew, half of its time
    return outcomes([PYTHON, PROGRAM], server, **nothing_from_elsewhere, **bytecode_kept)


@pytest.mark.parametrize("name", names(PROGRAM, r"(?:async )?def (test_\w+)"))
def test_litellm(ran: dict[str, str], name: str) -> None:
    assert ran.get(name, "it did not run") == ""
