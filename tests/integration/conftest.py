"""The client of the cluster that is shared. Tests that do not leave one whole start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from jobs.echo_cluster import EchoCluster


@pytest.fixture
def client(shared: EchoCluster) -> Iterator[OpenAI]:
    """The stock client, which refuses any answer that is not shaped as OpenAI's."""
    with OpenAI(
        base_url=f"{shared.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
