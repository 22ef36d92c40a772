"""The applications of the development issuer: what signs in, one for each role, known from a secret of the service."""

import hashlib
import hmac
import uuid
from typing import Final

import msgspec

from millpond.identity.roles import Role

NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


class Application(msgspec.Struct, frozen=True):
    """What signs in: Azure's client id and secret."""

    client_id: str
    client_secret: str
    role: Role


def applications(secret: bytes, account: str) -> dict[Role, Application]:
    """The applications of an account, one a role. They are the same as long as the secret is."""
    return {
        role: Application(
            str(uuid.uuid5(NAMESPACE, f"millpond/{account}/{role.name}")), _derived(secret, f"client/{role.name}"), role
        )
        for role in Role
    }


def tenant_of(account: str) -> str:
    """The tenant's id."""
    return str(uuid.uuid5(NAMESPACE, f"millpond/{account}"))


def managed_identity_secret(secret: bytes, role: Role) -> str:
    """What IDENTITY_HEADER says to be signed in with that role."""
    return _derived(secret, f"managed-identity/{role.name}")


def _derived(secret: bytes, purpose: str) -> str:
    # No sign that a command line or a shell takes for something else: `az login -p` wants none that begins with a dash.
    return hmac.digest(secret, f"millpond development issuer\n{purpose}".encode(), hashlib.sha256).hex()
