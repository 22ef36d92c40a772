"""The applications of the development issuer."""

from millpond.identity.applications import applications, managed_identity_secret
from millpond.identity.roles import Role


def test_secrets_can_be_typed_on_any_command_line() -> None:
    """`az login -p` takes one that begins with a dash for an option."""
    for number in range(200):
        secret = number.to_bytes(4, "big")
        said = [application.client_secret for application in applications(secret, "a").values()]
        said += [managed_identity_secret(secret, role) for role in Role]
        assert all(one.isascii() and one.isalnum() for one in said)


def test_they_are_those_of_a_service_and_a_role() -> None:
    first, again, other = (applications(secret, "a") for secret in (b"one", b"one", b"other"))
    assert first == again
    secrets = {application.client_secret for each in (first, other) for application in each.values()}
    assert len(secrets) == 2 * len(Role)
    assert len({application.client_id for application in first.values()}) == len(Role)
    assert applications(b"one", "b")[Role.OPERATOR].client_id != first[Role.OPERATOR].client_id
