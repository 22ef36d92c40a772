"""Which URLs of blob storage are reached by the operator's credentials."""

from collections.abc import Mapping
from typing import Final, TypeAlias
from urllib.parse import urlsplit

Credentials: TypeAlias = Mapping[str, Mapping[str, str]]
"""By the beginning of URLs (`s3://bucket`, `https://account.blob.core.windows.net/`): what obstore is to know, by its own
names (`access_key_id`, `secret_access_key`, `region`, `endpoint`, `account_name`, `account_key`, `service_account` …), and
`allow_http` = `true` for an endpoint without TLS. The longest beginning that fits is taken."""

SCHEMES: Final = {"s3": "S3", "gs": "Google Cloud", "az": "Azure Blob"}


def needs_client(url: str, credentials: Credentials) -> bool:
    """Whether a URL is to be reached by the operator's credentials, or by no other way. Raises ValueError for no URL."""
    return urlsplit(url).scheme in SCHEMES or credentials_for(url, credentials) is not None


def credentials_for(url: str, credentials: Credentials) -> Mapping[str, str] | None:
    """Those of the longest beginning that fits."""
    fitting = [prefix for prefix in credentials if _begins_with(url, prefix)]
    return credentials[max(fitting, key=len)] if fitting else None


def _begins_with(url: str, prefix: str) -> bool:
    """`s3://b` is the beginning of `s3://b/c`, not of `s3://bb`."""
    rest = url[len(prefix) :]
    return url.startswith(prefix) and (prefix.endswith("/") or not rest or rest[0] in "/?")
