"""A store of each kind, open, with a lease."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.store.base import Fence, Store
from tests.contracts.stores import PLACES, Place, lease


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return PLACES[request.param](tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    store = place.store()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def fence(store: Store) -> Fence:
    return await lease(store)
