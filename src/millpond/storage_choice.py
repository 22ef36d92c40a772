"""Where the account's auto-storage is, by the configuration: a directory, an Azurite beside the service, or an account of
Azure Blob storage. And the credentials of identities. For `app`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from millpond.azurite import Azurite
from millpond.azurite import install as install_azurite
from millpond.config import Config, IdentityConfig
from millpond.control.identities import StoredIdentity
from millpond.datadir import DataDir, StorageFacts
from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.staging.shared_access import StorageAccount, account_at, account_of

if TYPE_CHECKING:
    from millpond.staging.blob_storage import BlobStorage


class ChoiceError(Exception):
    """The configured storage cannot be used. The text is one line that says why and what to do."""


class StorageChoice:
    """The auto-storage of one service. `start` and `ready` where the service starts, `stop` as the last of all."""

    def __init__(
        self, config: Config, data_dir: DataDir, directory: AccountStorage, *, say: Callable[[str], None]
    ) -> None:
        """`directory` is the storage where no other is configured; `say` is told what takes long. Nothing is started yet,
        but Azurite is installed. Raises ChoiceError, AzuriteError, DataDirError."""
        self._azurite: Azurite | None = None
        if config.storage.blob == "azurite":
            key = config.storage.account_key or data_dir.azurite_key()
            path, port = data_dir.azurite_path, config.storage.azurite_port
            self._azurite = Azurite(install_azurite(say), path, config.account.name, key, port=port)
            self._azurite.prepare()
        account = _account(config, data_dir, self._azurite)
        self._blobs = None if account is None else _blob_storage(account)
        self.storage: AccountStorage = self._blobs or directory
        self.endpoints = {} if account is None else {account.name: account.endpoint}
        """Of the storage account, by its name."""
        self.facts = StorageFacts()
        if account is not None:
            kind = "account" if self._azurite is None else "azurite"
            self.facts = StorageFacts(kind, account.endpoint, account.connection_string)

    def start(self) -> None:
        """Raises AzuriteError."""
        if self._azurite is not None:
            self._azurite.start()

    async def ready(self) -> None:
        """Wait until it can be used. Raises AzuriteError, ChoiceError."""
        if self._azurite is not None:
            await self._azurite.ready()
        if self._blobs is None:
            return
        try:
            await self._blobs.check()
        except StorageError as error:
            what = "see that it is reachable from here" if error.status == 503 else "see that its key is right"
            raise ChoiceError(f"{self.facts.url}: {error.message} ({error.code}); {what}") from error

    async def stop(self) -> None:
        await self.storage.close()
        if self._azurite is not None:
            await self._azurite.stop()

    def kill(self) -> None:
        """End what was started at once."""
        if self._azurite is not None:
            self._azurite.kill()


def _blob_storage(account: StorageAccount) -> "BlobStorage":
    # Not before it is needed: its HTTP client is a fifth of what a service reads to start.
    from millpond.staging.blob_storage import BlobStorage  # noqa: PLC0415

    return BlobStorage(account)


def _account(config: Config, data_dir: DataDir, azurite: Azurite | None) -> StorageAccount | None:
    """The account of Azure Blob storage that is the auto-storage; None where that is a directory."""
    storage = config.storage
    try:
        if azurite is not None:
            return account_at(azurite.endpoint, storage.account_key or data_dir.azurite_key())
        if storage.connection_string:
            return account_of(storage.connection_string)
        if storage.blob != "directory":
            return account_at(storage.blob, storage.account_key)
    except ValueError as error:
        raise ChoiceError(f"the account of the storage cannot be used: {error}") from error
    return None


def stored_identities(configured: Mapping[str, IdentityConfig]) -> list[StoredIdentity]:
    """The identities of the configuration, with their credentials. Raises ChoiceError."""
    found: list[StoredIdentity] = []
    for name, identity in configured.items():
        try:
            found.append(_stored_identity(name, identity))
        except (ValueError, OSError) as error:
            reason = f"{identity.service_account_file}: {error.strerror}" if isinstance(error, OSError) else error
            raise ChoiceError(f"identities.{name}: {reason}; correct it") from error
    return found


def _stored_identity(name: str, identity: IdentityConfig) -> StoredIdentity:
    """Raises ValueError, OSError."""
    resource_id = identity.resource_id
    if identity.connection_string:
        return StoredIdentity(name=name, resource_id=resource_id, account=account_of(identity.connection_string))
    if identity.account_key:
        account = account_at(identity.account_url, identity.account_key)
        return StoredIdentity(name=name, resource_id=resource_id, account=account)
    if identity.sas:
        url = f"{identity.account_url.rstrip('/')}?{identity.sas.lstrip('?')}"
        return StoredIdentity(name=name, resource_id=resource_id, signed_url=url)
    if identity.service_account_file:
        key = Path(identity.service_account_file).expanduser().read_text(encoding="utf-8")
        options = {f"gs://{identity.bucket}": {"service_account_key": key}}
    else:
        given = {
            "access_key_id": identity.access_key_id,
            "secret_access_key": identity.secret_access_key,
            "token": identity.session_token,
            "region": identity.region,
            "endpoint": identity.endpoint,
            "allow_http": "true" if identity.endpoint.startswith("http:") else "",
        }
        options = {f"s3://{identity.bucket}": {option: value for option, value in given.items() if value}}
    return StoredIdentity(name=name, resource_id=resource_id, options=options)
