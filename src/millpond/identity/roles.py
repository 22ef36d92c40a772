"""Roles: what a caller may do, from least to most. Sources: Azure's built-in roles for Batch accounts."""

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec


class Role(enum.IntEnum):
    """Each may do what those before it may."""

    READER = 1
    """See everything but keys (Azure Batch Account Reader)."""
    SUBMITTER = 2
    """Jobs, job schedules, tasks and their files (Azure Batch Job Submitter)."""
    OPERATOR = 3
    """Pools and nodes as well: all that data-plane clients do (Azure Batch Data Contributor)."""
    ADMIN = 4
    """The account itself: keys, applications, settings (Azure Batch Account Contributor)."""


ROLE_NAMES: Final[Mapping[str, Role]] = {
    **{role.name.lower(): role for role in Role},
    "contributor": Role.OPERATOR,
    "azure batch account reader": Role.READER,
    "azure batch job submitter": Role.SUBMITTER,
    "azure batch data contributor": Role.OPERATOR,
    "azure batch account contributor": Role.ADMIN,
}
"""By lower-case name: ours, and those Azure has."""

_SUBMITTERS_PATHS: Final = ("/jobs", "/jobschedules")
_MAX_NAME: Final = 200


class Caller(msgspec.Struct, frozen=True):
    """Who calls by a verified token."""

    name: str
    """For messages and logs: an application's or a user's id."""
    role: Role


class RoleRules(msgspec.Struct, frozen=True):
    """How a token's claims become a role."""

    claims: tuple[str, ...] = ("roles", "groups", "oid", "appid", "azp", "sub")
    """Names of the claims whose values are looked up."""
    roles: Mapping[str, Role] = {}
    """Role by value of a claim, such as a group's id; beside `ROLE_NAMES`, which the claim `roles` may use."""
    default: Role | None = None
    """Of a good token none of whose claims gives a role; None turns it away."""

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """The highest role the claims of a verified token give."""
        found = [role for name in self.claims for role in self._roles_of(name, claims.get(name))]
        return max(found, default=self.default)

    def _roles_of(self, claim: str, value: Any) -> Iterable[Role]:
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            if text in self.roles:
                yield self.roles[text]
            elif claim == "roles" and text.lower() in ROLE_NAMES:
                yield ROLE_NAMES[text.lower()]


def name_of(claims: Mapping[str, Any]) -> str:
    """How to call the bearer of a token."""
    for claim in ("upn", "preferred_username", "appid", "azp", "oid", "sub"):
        value = claims.get(claim)
        if isinstance(value, str) and value:
            return value[:_MAX_NAME]
    return "(unnamed)"


def needed_role(method: str, path: str) -> Role:
    """The least role that may do a data-plane operation, by its method and path template."""
    if method in ("GET", "HEAD"):
        return Role.READER
    if path.startswith(_SUBMITTERS_PATHS):
        return Role.SUBMITTER
    return Role.OPERATOR
