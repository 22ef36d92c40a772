"""What the rest of the house knows of tokens: the contract of who verifies them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

AUDIENCES: Final = ("https://batch.core.windows.net",)
"""What data-plane clients ask tokens for; with a slash behind, some."""
MANAGEMENT_AUDIENCES: Final = ("https://management.azure.com", "https://management.core.windows.net")


class TokenRefused(Exception):
    """The token is not good. The text says why, without quoting it."""


class IssuerAway(Exception):
    """The issuer's keys cannot be had just now. The text says why."""


class SignInRefused(Exception):
    """OAuth 2.0 error: `code` as in RFC 6749 section 5.2, and a text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Verifier(Protocol):
    """Verifies bearer tokens."""

    async def verify(self, token: str, audiences: Sequence[str] = AUDIENCES) -> Mapping[str, Any]:
        """The claims of a good token for one of these audiences, or of those configured.

        Raises TokenRefused, IssuerAway.
        """
        ...

    async def close(self) -> None: ...
