"""The list of supported images, and `account.strict_images`."""

from pathlib import Path
from typing import Any

import pytest

from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from tests.api.client import ACCOUNT, KEY, SECONDARY
from tests.api.conftest import MACHINE, World

IMAGE = "virtualMachineConfiguration.imageReference"
SKU_ID = "virtualMachineConfiguration.nodeAgentSKUId"
OWN = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/mine"


@pytest.fixture
def strict(tmp_path: Path) -> World:
    world = World(tmp_path / "storage")
    world.app = create_app(world.control, AccountKeys(ACCOUNT, KEY, SECONDARY), world.storage, strict_images=True)
    return world


def machine(sku_id: str = "batch.node.ubuntu 22.04", **image: str) -> dict[str, Any]:
    return {"imageReference": {**MACHINE["imageReference"], **image}, "nodeAgentSKUId": sku_id}


def pool(of: dict[str, Any]) -> dict[str, Any]:
    return {"vmSize": "standard_d2s_v3", "virtualMachineConfiguration": of}


def auto_pool(of: dict[str, Any]) -> dict[str, Any]:
    return {"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": pool(of)}}


async def images(world: World, query: str = "") -> list[dict[str, Any]]:
    answer = await world.call("GET", "/supportedimages", query=query)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["value"]
    return found


async def test_every_image_of_the_list_makes_a_pool(strict: World) -> None:
    listed = await images(strict)
    assert len({str(image) for image in listed}) == len(listed) > 3
    for number, image in enumerate(listed):
        of = {name: image[name] for name in ("imageReference", "nodeAgentSKUId")}
        assert (await strict.call("POST", "/pools", {"id": f"p{number}", **pool(of)})).status == 201
        shouted = {name.upper(): value for name, value in image["imageReference"].items()}
        of["imageReference"] = {name.lower(): value.upper() for name, value in shouted.items()}
        of["nodeAgentSKUId"] = of["nodeAgentSKUId"].upper()
        assert (await strict.call("POST", "/pools", {"id": f"q{number}", **pool(of)})).status == 201


REFUSED = [
    (machine(publisher="nobody"), IMAGE),
    (machine(offer="nothing"), IMAGE),
    (machine(sku="22_04"), IMAGE),
    ({"imageReference": {}, "nodeAgentSKUId": "batch.node.ubuntu 22.04"}, IMAGE),
    (machine("batch.node.ubuntu 14.04"), SKU_ID),
    (machine("batch.node.el 9"), SKU_ID),
    ({"imageReference": {"virtualMachineImageId": OWN}, "nodeAgentSKUId": "batch.node.mine"}, SKU_ID),
]


@pytest.mark.parametrize(("of", "named"), REFUSED)
async def test_any_other_is_refused_wherever_a_pool_is_described(strict: World, of: dict[str, Any], named: str) -> None:
    await strict.add_pool()
    await strict.add_job_schedule()
    specification = {"poolInfo": auto_pool(of)}
    in_job = "poolInfo.autoPoolSpecification.pool."
    for method, path, body, prefix in (
        ("POST", "/pools", {"id": "made", **pool(of)}, ""),
        ("PATCH", "/pools/p1", {"virtualMachineConfiguration": of}, ""),
        ("POST", "/jobs", {"id": "made", "poolInfo": auto_pool(of)}, in_job),
        (
            "POST",
            "/jobschedules",
            {"id": "made", "schedule": {"recurrenceInterval": "PT1H"}, "jobSpecification": specification},
            "jobSpecification." + in_job,
        ),
        ("PATCH", "/jobschedules/s1", {"jobSpecification": specification}, "jobSpecification." + in_job),
        (
            "PUT",
            "/jobschedules/s1",
            {"schedule": {"recurrenceInterval": "PT1H"}, "jobSpecification": specification},
            "jobSpecification." + in_job,
        ),
    ):
        answer = await strict.call(method, path, body)
        assert (answer.status, answer.code) == (400, "InvalidPropertyValue"), path
        assert answer.values()["PropertyName"] == prefix + named
        assert answer.values()["PropertyValue"] == (
            of["nodeAgentSKUId"] if named == SKU_ID else ":".join([*_words(of["imageReference"]), "latest"])
        )
    assert (await strict.call("GET", "/pools/made")).status == 404
    assert (await strict.call("GET", "/jobs/made")).status == 404


def _words(image: dict[str, str]) -> list[str]:
    return [image.get(name, "") for name in ("publisher", "offer", "sku")]


@pytest.mark.parametrize(
    "of",
    [
        machine(version="22.04.202401010"),
        {"imageReference": {"virtualMachineImageId": OWN}, "nodeAgentSKUId": "batch.node.ubuntu 22.04"},
    ],
)
async def test_any_version_and_images_of_ones_own_will_do(strict: World, of: dict[str, Any]) -> None:
    assert (await strict.call("POST", "/pools", {"id": "made", **pool(of)})).status == 201


@pytest.mark.parametrize(("of", "named"), REFUSED)
async def test_without_the_setting_all_are_taken(world: World, of: dict[str, Any], named: str) -> None:
    assert (await world.call("POST", "/pools", {"id": "made", **pool(of)})).status == 201


@pytest.mark.parametrize(
    ("query", "passing"),
    [
        ("osType eq 'Linux'", lambda image: True),
        ("osType eq 'windows'", lambda image: False),
        ("osType ne 'windows' and verificationType eq 'verified'", lambda image: True),
        ("verificationType ne 'verified'", lambda image: False),
        ("nodeAgentSKUId eq 'BATCH.NODE.UBUNTU 22.04'", lambda image: image["nodeAgentSKUId"].endswith("ubuntu 22.04")),
        ("nodeAgentSKUId ne 'batch.node.el 9'", lambda image: image["nodeAgentSKUId"] != "batch.node.el 9"),
    ],
)
async def test_the_list_is_filtered_and_paged(world: World, query: str, passing: Any) -> None:
    everything = await images(world)
    wanted = [image for image in everything if passing(image)]
    encoded = query.replace(" ", "%20")
    assert await images(world, f"$filter={encoded}") == wanted
    found: list[dict[str, Any]] = []
    rest = f"$filter={encoded}&maxresults=1"
    while rest:
        answer = (await world.call("GET", "/supportedimages", query=rest)).json()
        assert len(answer["value"]) <= 1
        found += answer["value"]
        rest = answer.get("odata.nextLink", "").partition("api-version=2025-06-01&")[2]
    assert found == wanted


@pytest.mark.parametrize("query", ["imageReference/offer eq 'x'", "startswith(nodeAgentSKUId,'b')", "osType eq 'mac'"])
async def test_other_filters_are_refused(world: World, query: str) -> None:
    answer = await world.call("GET", "/supportedimages", query="$filter=" + query.replace(" ", "%20"))
    assert (answer.status, answer.code) == (400, "InvalidQueryParameterValue")
