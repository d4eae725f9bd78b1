"""The `openai` package of npm, under Node: node_client.mjs, each of its tests as one here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.conftest import Server
from tests.compat.foreign import CLIENTS, names, outcomes

pytestmark = pytest.mark.cluster

PROGRAM = Path(__file__).with_name("node_client.mjs")
NODE = CLIENTS / "node" / "node"


@pytest.fixture(scope="module")
def ran(server: Server) -> dict[str, str]:
    package = (CLIENTS / "node" / "node_modules" / "openai" / "index.mjs").as_uri()
    return outcomes([NODE, "--test", "--test-reporter=tap", PROGRAM], server, COMPAT_OPENAI=package)


@pytest.mark.parametrize("name", names(PROGRAM, r'test\("(\w+)"'))
def test_node(ran: dict[str, str], name: str) -> None:
    assert ran.get(name, "it did not run") == ""
