"""The one place that chooses implementations, puts them together and runs them.

Start: the socket (a used port is one clear line, before anything is touched), the data directory and its lock, the
account's keys, the store, the control plane, the REST face. Stop, in an order that keeps the truth: first the control
plane, so that nobody hears of the deaths that follow, then the local nodes with everything they run, then the server
and the store.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import uvloop

from millpond.agent.isolation.node import IsolationSettings, why_not
from millpond.agent.mount_kinds import MountSettings
from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from millpond.api.intake.job_schedules import job_maker
from millpond.azurite import Azurite, AzuriteError
from millpond.azurite import install as install_azurite
from millpond.config import Config, IdentityConfig, NodesConfig, uid_range_of
from millpond.control.identities import Identities, StoredIdentity
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.control.specs import SpecPreparer
from millpond.datadir import DataDir, DataDirError, Endpoint, StorageFacts
from millpond.domain.errors import LeaseLost, StoreUnavailable
from millpond.providers.base import VmSize
from millpond.providers.catalogue import catalogue
from millpond.providers.local import LocalProvider
from millpond.serving import HttpServer, ListenError, listen, url_of
from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.blob_storage import BlobStorage
from millpond.staging.directory_storage import DirectoryStorage
from millpond.staging.shared_access import StorageAccount, account_at, account_of
from millpond.store.sqlite import SqliteStore

_log: Final = logging.getLogger(__name__)


class StartError(Exception):
    """The service cannot start. The text is one line that says why and what to do."""


class Running(NamedTuple):
    """A service that is ready."""

    endpoint: Endpoint
    data_dir: DataDir
    storage: StorageFacts


def run(
    config: Config,
    ready: Callable[[Running], None],
    *,
    host_command: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: _log.warning("%s", text),
) -> None:
    """Run the service until SIGINT or SIGTERM. `ready` is called once, when clients can come; `say` tells what takes long
    before that.

    A second signal kills the local nodes and ends the process at once. `host_command` runs the local nodes by another
    program than the agent (benchmarks do). Raises StartError.
    """
    logging.basicConfig(
        level=config.log.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    data_dir = DataDir(Path(config.data_dir))
    try:
        with (
            contextlib.closing(listen(config.server)) as listener,
            contextlib.closing(data_dir.open()),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            # Before the loop: it takes a while the first time.
            azurite_command = install_azurite(say) if config.storage.blob == "azurite" else []
            runner.run(_serve(config, data_dir, listener, ready, host_command, azurite_command))
    except ListenError as error:
        holder = f"; a millpond runs in {data_dir.path} already" if data_dir.is_in_use() else ""
        raise StartError(f"{error}{holder}") from error
    except (DataDirError, AzuriteError) as error:
        raise StartError(str(error)) from error


async def _serve(
    config: Config,
    data_dir: DataDir,
    listener: socket.socket,
    ready: Callable[[Running], None],
    host_command: Sequence[str],
    azurite_command: Sequence[str],
) -> None:
    async with _service(config, data_dir, listener, host_command, azurite_command) as (stop, storage):
        endpoint = Endpoint(url_of(listener), config.account.name, os.getpid())
        if storage != data_dir.storage():
            data_dir.write_storage(storage)
        data_dir.write_endpoint(endpoint)
        # What start-up left lives as long as the process: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        ready(Running(endpoint, data_dir, storage))
        await stop.wait()


@contextlib.asynccontextmanager
async def _service(
    config: Config,
    data_dir: DataDir,
    listener: socket.socket,
    host_command: Sequence[str],
    azurite_command: Sequence[str],
) -> AsyncIterator[tuple[asyncio.Event, StorageFacts]]:
    """Everything started, in order; everything stopped, in order. Yields the event that a signal sets, and where the
    account's storage is."""
    account_url = url_of(listener)
    keys = AccountKeys.from_base64(config.account.name, *data_dir.account_keys(create=True))
    auto_storage = AutoStorage(str(data_dir.storage_path), keys.name, keys.primary, time.time)
    identities = Identities(stored_identities(config.identities))
    async with contextlib.AsyncExitStack() as stack:
        azurite = _azurite(config, data_dir, azurite_command) if azurite_command else None
        if azurite is not None:
            # The last to go: what tasks and the service have to say in the end goes there.
            stack.push_async_callback(azurite.stop)
            azurite.start()
        account = _storage_account(config, data_dir, azurite)
        storage: AccountStorage = (
            DirectoryStorage(auto_storage, lambda: account_url) if account is None else BlobStorage(account)
        )
        provider = LocalProvider(
            str(data_dir.nodes_path),
            endpoint=account_url,
            command=host_command,
            settings={
                **msgspec.structs.asdict(_isolation_of(config, data_dir)),
                "mounts": msgspec.structs.asdict(_mounts_of(config.nodes, account)),
            },
        )

        def sign(container: str, permissions: str, expires_at: float) -> str:
            return storage.sign(container, None, permissions, expires_at)

        control = ControlService(
            config.account.name,
            SqliteStore(str(data_dir.store_path)),
            provider,
            vm_sizes_of(config),
            secret=data_dir.node_secret(),
            account_url=lambda: account_url,
            make_job=job_maker(vm_sizes_of(config), time.time),
            storage=storage,
            prepare_spec=SpecPreparer(sign, identities, time.time),
            identities=identities,
            settings=ControlSettings(
                park_s=config.nodes.heartbeat_s,
                silent_after_s=config.nodes.silence_s,
                lost_after_s=config.nodes.lost_s,
                pool_quota=config.account.pool_quota or None,
                auto_scale_min_interval_s=config.autoscale.min_interval_s,
                auto_scale_on_queue_change=config.autoscale.on_queue_change,
                auto_scale_max_nodes=config.autoscale.max_nodes,
                sample_s=config.autoscale.sample_s,
                sample_history_s=config.autoscale.history_days * 86400.0,
            ),
        )
        server = HttpServer(create_app(control, keys, auto_storage), listener)

        stop = _stop_on_signals(provider, azurite)
        stack.push_async_callback(server.stop)
        stack.push_async_callback(provider.close)
        stack.push_async_callback(provider.stop_host)
        stack.push_async_callback(storage.close)
        stack.push_async_callback(control.stop)
        try:
            await control.start()
        except (StoreUnavailable, LeaseLost, ValueError) as error:
            raise StartError(f"{data_dir.store_path}: {error}") from error
        if azurite is not None:
            await azurite.ready()
        if isinstance(storage, BlobStorage):
            await _check_account(storage)
        await server.start()
        await provider.set_endpoint(account_url)
        await provider.prepare()
        yield stop, _facts_of(account, azurite)
        _log.info("stopping")


def _azurite(config: Config, data_dir: DataDir, command: Sequence[str]) -> Azurite:
    key = config.storage.account_key or data_dir.azurite_key()
    return Azurite(list(command), data_dir.azurite_path, config.account.name, key, port=config.storage.azurite_port)


def _storage_account(config: Config, data_dir: DataDir, azurite: Azurite | None) -> StorageAccount | None:
    """The account of Azure Blob storage that is the auto-storage; None where that is a directory. Raises StartError."""
    storage = config.storage
    try:
        if azurite is not None:
            return account_at(azurite.endpoint, storage.account_key or data_dir.azurite_key())
        if storage.connection_string:
            return account_of(storage.connection_string)
        if storage.blob != "directory":
            return account_at(storage.blob, storage.account_key)
    except ValueError as error:
        raise StartError(f"the account of the storage cannot be used: {error}") from error
    return None


def _facts_of(account: StorageAccount | None, azurite: Azurite | None) -> StorageFacts:
    if account is None:
        return StorageFacts()
    kind = "account" if azurite is None else "azurite"
    return StorageFacts(kind, account.endpoint, account.connection_string)


async def _check_account(storage: BlobStorage) -> None:
    try:
        await storage.check()
    except StorageError as error:
        what = "see that it is reachable from here" if error.status == 503 else "see that its key is right"
        raise StartError(f"{storage.account.endpoint}: {error.message} ({error.code}); {what}") from error


def stored_identities(configured: Mapping[str, IdentityConfig]) -> list[StoredIdentity]:
    """The identities of the configuration, with their credentials. Raises StartError."""
    found: list[StoredIdentity] = []
    for name, identity in configured.items():
        try:
            found.append(_stored_identity(name, identity))
        except (ValueError, OSError) as error:
            reason = f"{identity.service_account_file}: {error.strerror}" if isinstance(error, OSError) else error
            raise StartError(f"identities.{name}: {reason}; correct it") from error
    return found


def _stored_identity(name: str, identity: IdentityConfig) -> StoredIdentity:
    """Raises ValueError, OSError."""
    if identity.connection_string:
        return StoredIdentity(
            name=name, resource_id=identity.resource_id, account=account_of(identity.connection_string)
        )
    if identity.account_key:
        account = account_at(identity.account_url, identity.account_key)
        return StoredIdentity(name=name, resource_id=identity.resource_id, account=account)
    if identity.sas:
        url = f"{identity.account_url.rstrip('/')}?{identity.sas.lstrip('?')}"
        return StoredIdentity(name=name, resource_id=identity.resource_id, signed_url=url)
    bucket = f"{identity.bucket}/" if identity.bucket else ""
    if identity.service_account_file:
        key = Path(identity.service_account_file).expanduser().read_text(encoding="utf-8")
        options = {f"gs://{bucket}": {"service_account_key": key}}
    else:
        given = {
            "access_key_id": identity.access_key_id,
            "secret_access_key": identity.secret_access_key,
            "token": identity.session_token,
            "region": identity.region,
            "endpoint": identity.endpoint,
        }
        options = {f"s3://{bucket}": {option: value for option, value in given.items() if value}}
    return StoredIdentity(name=name, resource_id=identity.resource_id, options=options)


def _mounts_of(nodes: NodesConfig, account: StorageAccount | None) -> MountSettings:
    """What the nodes are told of mounts: the account's own storage is known, wherever it is."""
    endpoints = {} if account is None else {account.name: account.endpoint}
    for pair in filter(None, nodes.mount_endpoints.split(",")):
        name, _, endpoint = pair.partition("=")
        endpoints[name] = endpoint
    return MountSettings(allow=tuple(path for path in nodes.mount_allow.split(":") if path), endpoints=endpoints)


def _isolation_of(config: Config, data_dir: DataDir) -> IsolationSettings:
    """What the nodes are told of isolation. Raises StartError when it is asked for and cannot be had."""
    nodes = config.nodes
    first, last = uid_range_of(nodes)
    settings = IsolationSettings(isolation=nodes.isolation, first_uid=first, last_uid=last, limits=nodes.limits)
    if nodes.isolation != "none":
        # Whether others get as far as the data directory; it is opened to them only if that helps.
        reason = why_not(str(data_dir.path), settings.uid_range)
        if not reason:
            data_dir.let_pass()
        elif nodes.isolation == "users":
            raise StartError(f"nodes.isolation is users, but {reason}; or set it to auto or none")
    return settings


def vm_sizes_of(config: Config) -> dict[str, VmSize]:
    """The catalogue of VM sizes by lower-case name: the built-in ones, and the user's own over them."""
    own = {
        name: VmSize(name, size.cores, size.memory_mib, size.price_per_hour) for name, size in config.vm_sizes.items()
    }
    return catalogue(own)


def _stop_on_signals(provider: LocalProvider, azurite: Azurite | None) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            provider.kill_host()
            if azurite is not None:
                azurite.kill()
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop
