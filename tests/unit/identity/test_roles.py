"""What a token's claims let its bearer do."""

from typing import Any

import pytest

from millpond.api.operations import Router
from millpond.identity.roles import Role, RoleRules, name_of, needed_role

RULES = RoleRules(roles={"group-7": Role.OPERATOR, "jane": Role.READER, "robot": Role.SUBMITTER})


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({}, None),
        ({"roles": ["reader"]}, Role.READER),
        ({"roles": ["Azure Batch Data Contributor"]}, Role.OPERATOR),
        ({"roles": ["Admin", "reader"]}, Role.ADMIN),
        ({"groups": ["admin"]}, None),
        ({"groups": ["group-7", "other"], "oid": "jane"}, Role.OPERATOR),
        ({"sub": "jane"}, Role.READER),
        ({"roles": "robot"}, Role.SUBMITTER),
        ({"email": "jane"}, None),
        ({"roles": [None, 7, {"jane": 1}]}, None),
    ],
)
def test_the_highest_role_counts(claims: dict[str, Any], role: Role | None) -> None:
    assert RULES.role_of(claims) is role


def test_the_default_is_for_those_without_a_role_only() -> None:
    rules = RoleRules(roles={"jane": Role.READER}, default=Role.SUBMITTER)
    assert rules.role_of({"sub": "jane"}) is Role.READER
    assert rules.role_of({"sub": "joe"}) is Role.SUBMITTER


def test_names() -> None:
    assert name_of({"oid": "o", "upn": "jane@example.org"}) == "jane@example.org"
    assert name_of({"sub": 7}) == "(unnamed)"


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/pools", Role.READER),
        ("HEAD", "/jobs/j/tasks/t/files/stdout.txt", Role.READER),
        ("POST", "/jobs/j/addtaskcollection", Role.SUBMITTER),
        ("DELETE", "/jobschedules/s", Role.SUBMITTER),
        ("POST", "/pools", Role.OPERATOR),
        ("POST", "/pools/p/nodes/n/reboot", Role.OPERATOR),
    ],
)
def test_what_an_operation_needs(method: str, path: str, role: Role) -> None:
    operation, _ = Router().find(method, path.encode())
    assert needed_role(operation.method, operation.path) is role
