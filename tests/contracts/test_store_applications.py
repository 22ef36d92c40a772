"""What every store keeps of applications and their packages."""

import asyncio
from functools import partial

import msgspec
import pytest

from millpond.domain.application import Application, ApplicationPackage, PackageState
from millpond.domain.errors import StoreUnavailable
from tests.contracts.stores import T0, all_pages


def a_package(version: str = "1.0", **fields: object) -> ApplicationPackage:
    return ApplicationPackage(version, T0, T0 + 1, **({"blob": f"app-{version}"} | fields))


def an_application(application_id: str = "Blender", *packages: ApplicationPackage, **fields: object) -> Application:
    return Application(application_id, T0, T0 + 1, packages=packages, **fields)


WIDE = an_application(
    "Blender",
    a_package("4.0", state=PackageState.ACTIVE, last_activation_time=T0 + 2, size=7, etag='"e"', sha256="ab" * 32),
    a_package("4.1-rc", upload_blob="b", replaced_blobs=("c", "d"), storage_url_expiry=T0 + 3600),
    display_name="Bl\u00e9nder",
    allow_updates=False,
    default_version="4.0",
)


async def test_an_application_comes_back_whole_under_any_case(place):
    store = place.store()
    await store.open()
    await store.save_application(WIDE)
    await store.close()
    store = place.store()
    await store.open()
    assert await store.get_application("bLENDER") == WIDE
    assert await store.load_applications() == [WIDE]
    assert await store.get_application("blend") is None
    await store.close()


async def test_saving_replaces_and_deleting_takes_the_packages_along(store):
    await store.save_application(WIDE)
    other = msgspec.structs.replace(WIDE, id="BLENDER", display_name=None, packages=())
    await store.save_application(other)
    assert await store.load_applications() == [other]
    await store.delete_application("blender")
    await store.delete_application("blender")
    assert await store.get_application("Blender") is None
    assert await store.load_applications() == []


async def test_listings_are_in_order_and_paged(store):
    for number in (3, 1, 5, 2, 4):
        state = PackageState.ACTIVE if number % 2 else PackageState.PENDING
        await store.save_application(an_application(f"{'aB'[number % 2]}pp_{number}", a_package(state=state)))
    expected = ["app_2", "app_4", "Bpp_1", "Bpp_3", "Bpp_5"]
    for limit in (1, 2, 5, 6):
        assert [one.id for one in await all_pages(store.list_applications, limit)] == expected
        active = partial(store.list_applications, active=True)
        assert [one.id for one in await all_pages(active, limit)] == ["Bpp_1", "Bpp_3", "Bpp_5"]
    with pytest.raises(ValueError, match="not where a page"):
        await store.list_applications(1, "nonsense")


async def test_an_activation_shows_in_the_list_of_those_with_active_packages(store):
    await store.save_application(an_application("app", a_package()))
    assert (await store.list_applications(10, None, active=True)).items == []
    await store.save_application(an_application("app", a_package(state=PackageState.ACTIVE)))
    assert [one.id for one in (await store.list_applications(10, None, active=True)).items] == ["app"]


async def test_many_at_once(store):
    await asyncio.gather(*(store.save_application(an_application(f"app{number:02}")) for number in range(30)))
    assert [one.id for one in await store.load_applications()] == [f"app{number:02}" for number in range(30)]


async def test_a_closed_store_says_so(place):
    store = place.store()
    for call in (store.save_application(WIDE), store.delete_application("a"), store.load_applications()):
        with pytest.raises(StoreUnavailable):
            await call
