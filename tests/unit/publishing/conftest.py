"""Two agents that publish."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dstack_mesh.signing import Signer
from support.publishers import Agent, opened


@pytest.fixture
async def ws_1(tmp_path: Path) -> AsyncIterator[Agent]:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    async with opened(tmp_path / "one", "ws-1", signer) as agent:
        task = asyncio.create_task(agent.publisher.run())
        yield agent
        task.cancel()


@pytest.fixture
async def ws_2(tmp_path: Path) -> AsyncIterator[Agent]:
    signer = Signer(ec.generate_private_key(ec.SECP256R1()))
    async with opened(tmp_path / "two", "ws-2", signer) as agent:
        yield agent
