"""The management plane against its specification, where that lies beside the checkout."""

import json
import re
from typing import Any

import pytest

from millpond.api.management.coverage import NOT_SERVED
from millpond.api.management.handlers import HANDLERS
from millpond.api.management.operations import table
from tests.api.conftest import World
from tests.api.specification import NOT_AT_HAND, REFERENCE, Specification
from tests.api.test_management import GROUP, add, call
from tests.api.test_management_account import POOL, text

_PARAMETER = re.compile(r"\{[^}]*\}")
BESIDE = {
    ("GET", "/subscriptions/{}/resourcegroups/{}/providers/microsoft.batch/batchaccounts/{}/operationresults/{}"),
    ("GET", "/subscriptions/{}/resourcegroups/{}/providers/microsoft.batch/batchaccounts/{}/pooloperationresults/{}"),
}
"""Where `Location` leads: Azure's own such paths are in no specification."""


def form_of(path: str) -> str:
    return _PARAMETER.sub("{}", path).lower()


@pytest.fixture(scope="module")
def specification() -> Specification:
    path = REFERENCE / "BatchManagement-2025-06-01.derived.json"
    if not path.exists():
        pytest.skip(NOT_AT_HAND)
    document = json.loads(path.read_text())
    definitions = document["definitions"]
    whole = {name: inherited(definitions, schema) for name, schema in definitions.items()}
    return Specification("2025-06-01", {**document, "definitions": whole})


def inherited(definitions: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with what it has from those it is based on."""
    found = {**schema, "properties": {**schema.get("properties", {})}, "required": [*schema.get("required", ())]}
    for base in schema.get("allOf", ()):
        more = inherited(definitions, definitions[base["$ref"].rpartition("/")[2]])
        found["properties"] |= more["properties"]
        found["required"] += more["required"]
    return found if found["properties"] else schema


def test_every_operation_of_the_table_has_a_handler() -> None:
    assert {name for name, *_ in table()} == set(HANDLERS)


def test_every_operation_of_the_specification_is_in_the_table(specification: Specification) -> None:
    specified = {(method, form_of(path)) for method, path, _ in specification.operations()}
    served = {(method, form_of(path)) for _, method, path, _ in table() if "Microsoft.Batch" in path}
    refused = {(method, form_of(path)) for method, path in NOT_SERVED}
    assert specified - served == refused
    assert served - specified == BESIDE


@pytest.mark.parametrize(("method", "path"), NOT_SERVED)
async def test_what_is_not_served_is_refused(world: World, method: str, path: str) -> None:
    below = _PARAMETER.sub("x", path.partition("{accountName}")[2])
    answer = await call(world, method, f"{GROUP}{below}", b"{}")
    assert (answer.status, answer.json()["error"]["code"]) in (
        (404, "InvalidResourceType"),
        (405, "MethodNotAllowed"),
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "definition"),
    [
        ("GET", "", None, "BatchAccount"),
        ("PATCH", "", {"tags": {"a": "b"}}, "BatchAccount"),
        ("POST", "listKeys", None, "BatchAccountKeys"),
        ("PUT", "pools/p1", POOL, "Pool"),
        ("GET", "applications/tool", None, "Application"),
        ("GET", "applications/tool/versions/1", None, "ApplicationPackage"),
        ("GET", "/subscriptions/s/providers/Microsoft.Batch/locations/l/quotas", None, "BatchLocationQuota"),
    ],
)
async def test_answers_are_as_specified(
    world: World, specification: Specification, method: str, path: str, body: Any, definition: str
) -> None:
    await add(world, "tool")
    answer = await call(world, method, path, b"" if body is None else text(body))
    assert answer.status == 200, answer.body
    schema = {"$ref": f"#/definitions/{definition}"}
    assert list(specification.problems(schema, answer.json())) == []
