"""Real clusters. Tests that leave one whole share it; the others start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from jobs.echo_cluster import EchoCluster, echo_cluster


@pytest.fixture(scope="session")
def shared() -> Iterator[EchoCluster]:
    """One engine, as fast as a small model, the dashboard as on a desktop."""
    with echo_cluster("ray.dashboard=true", rows_per_s=1000) as cluster:
        yield cluster


@pytest.fixture
def client(shared: EchoCluster) -> Iterator[OpenAI]:
    """The stock client, which refuses any answer that is not shaped as OpenAI's."""
    with OpenAI(
        base_url=f"{shared.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client
