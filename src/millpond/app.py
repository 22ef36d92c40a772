"""The one place that chooses implementations, puts them together and runs them.

Start: the socket (a used port is one clear line, before anything is touched), the data directory and its lock; of each
account its keys, its store, its control plane; then the REST face. Stop, in an order that keeps the truth: first the control
plane, so that nobody hears of the deaths that follow, then the local nodes with everything they run, then the server
and the store.
"""

import asyncio
import contextlib
import datetime
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import uvloop

from millpond import collector
from millpond.agent.content_cache import CacheSettings
from millpond.agent.isolation.node import IsolationSettings, why_not
from millpond.agent.mount_kinds import MountSettings
from millpond.api.accounts import PATH as ACCOUNTS_PATH
from millpond.api.accounts import AccountParts, StartFailed
from millpond.api.asgi import ServiceApp
from millpond.api.auth import AccountKeys
from millpond.api.gate import SignIn
from millpond.api.intake.job_schedules import job_maker
from millpond.api.management.account import AccountQuotas, AccountSettings
from millpond.azurite import AzuriteError
from millpond.config import Config, NodesConfig, listed, uid_range_of
from millpond.control.identities import Identities
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.control.specs import SpecPreparer
from millpond.control.timers import wall_clock
from millpond.datadir import DataDir, DataDirError, Endpoint, StorageFacts
from millpond.domain.errors import LeaseLost, ProviderError, StoreUnavailable
from millpond.identity.roles import Role, RoleRules
from millpond.open_files import raise_limit
from millpond.providers.base import VmSize
from millpond.providers.catalogue import catalogue
from millpond.providers.local import LocalProvider
from millpond.serving import HttpServer, ListenError, is_loopback, listen, url_of
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.directory_storage import DirectoryStorage
from millpond.storage_choice import ChoiceError, StorageChoice, stored_identities
from millpond.store.sqlite import SqliteStore
from millpond.store.sqlite_commits import BUSY_COMMITS

if TYPE_CHECKING:
    from millpond.api.sign_in_routes import SignInRoutes
    from millpond.tls import TlsFiles

_log: Final = logging.getLogger(__name__)
_NODES_GO_S: Final = 60.0
"""How long the nodes of an account that is deleted may take to go by themselves."""


class StartError(Exception):
    """The service cannot start. The text is one line that says why and what to do."""


class Running(NamedTuple):
    """A service that is ready."""

    endpoint: Endpoint
    data_dir: DataDir
    storage: StorageFacts


def _log_it(text: str) -> None:
    _log.warning("%s", text)


def run(
    config: Config,
    ready: Callable[[Running], None],
    *,
    host_command: Sequence[str] = (),
    say: Callable[[str], None] = _log_it,
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
            tls = _tls_of(config, data_dir)
            runner.run(_serve(config, data_dir, listener, tls, ready, host_command, say))
    except ListenError as error:
        holder = f"; a millpond runs in {data_dir.path} already" if data_dir.is_in_use() else ""
        raise StartError(f"{error}{holder}") from error
    except (DataDirError, AzuriteError, ChoiceError) as error:
        raise StartError(str(error)) from error


async def _serve(
    config: Config,
    data_dir: DataDir,
    listener: socket.socket,
    tls: "TlsFiles | None",
    ready: Callable[[Running], None],
    host_command: Sequence[str],
    say: Callable[[str], None],
) -> None:
    place = _Place(_url_of(listener, tls), tls, tuple(host_command), say, raise_limit())
    async with _service(config, data_dir, listener, place) as (stop, storage):
        endpoint = Endpoint(place.url, config.account.name, os.getpid())
        endpoint = endpoint._replace(development_issuer=config.auth.development_issuer)
        if tls is not None:
            endpoint = endpoint._replace(authority=tls.authority, bundle=tls.bundle)
        if storage != data_dir.storage():
            data_dir.write_storage(storage)
        data_dir.write_endpoint(endpoint)
        collector.settle_in()
        ready(Running(endpoint, data_dir, storage))
        await stop.wait()


@contextlib.asynccontextmanager
async def _service(
    config: Config, data_dir: DataDir, listener: socket.socket, place: "_Place"
) -> AsyncIterator[tuple[asyncio.Event, StorageFacts]]:
    """Everything started, in order; everything stopped, in order. Yields the event that a signal sets, and where the
    first account's storage is."""
    first = _AccountService(config, data_dir, place, place.url)
    further = _FurtherAccounts(config, data_dir, place)
    sign_in, sign_in_routes = _sign_in_of(config, data_dir, place.url)
    try:
        application = ServiceApp(
            first.parts,
            sign_in,
            sign_in_routes,
            management=config.server.management,
            works=further,
            account_quota=config.account.account_quota or None,
            groups=data_dir,
        )
    except ValueError as error:
        raise StartError(f"account.json or groups.json in {data_dir.path} is damaged: {error}; correct it") from error
    tls = place.tls
    server = HttpServer(
        application,
        listener,
        certificate=None if tls is None else tls.certificate,
        key=None if tls is None else tls.key,
    )

    async with contextlib.AsyncExitStack() as stack:
        stop = _stop_on_signals(first, further)
        # The last to go: what tasks and the service have to say in the end goes there.
        stack.push_async_callback(first.choice.stop)
        first.choice.start()
        if sign_in.verifier is not None:
            stack.push_async_callback(sign_in.verifier.close)
        stack.push_async_callback(server.stop)
        stack.push_async_callback(first.stop_nodes)
        stack.push_async_callback(first.control.stop)
        try:
            await first.control.start()
        except (StoreUnavailable, LeaseLost, ValueError) as error:
            raise StartError(f"{data_dir.store_path}: {error}") from error
        await first.choice.ready()
        stack.push_async_callback(application.accounts.stop)
        await application.accounts.load()
        await server.start()
        await first.provider.set_endpoint(place.url)
        await first.provider.prepare()
        yield stop, first.choice.facts
        _log.info("stopping")


class _Place(NamedTuple):
    """Where a service is, and how its nodes are run: the same for all its accounts."""

    url: str
    tls: "TlsFiles | None"
    host_command: tuple[str, ...]
    say: Callable[[str], None]
    open_files: int
    """How many the host of the nodes may hold open when it starts."""


class _AccountService:
    """One account, put together: its store, its nodes, its storage and its control plane."""

    def __init__(self, config: Config, data_dir: DataDir, place: _Place, url: str) -> None:
        """`url` is where its clients and its nodes reach it. Nothing is started yet. Raises DataDirError, ChoiceError,
        AzuriteError, StartError."""
        account, name = config.account, config.account.name
        keys = AccountKeys.from_base64(name, *data_dir.account_keys(create=True))
        auto_storage = AutoStorage(str(data_dir.storage_path), keys.name, keys.primary, time.time)
        directory = DirectoryStorage(auto_storage, lambda: url)
        self.choice = choice = StorageChoice(config, data_dir, directory, say=place.say)
        identities = Identities(stored_identities(config.identities))
        isolation, max_nodes = _isolation_of(config, data_dir)
        self.provider = LocalProvider(
            str(data_dir.nodes_path),
            endpoint=url,
            command=place.host_command,
            settings={
                **msgspec.structs.asdict(isolation),
                **msgspec.structs.asdict(CacheSettings(input_cache_mib=config.nodes.input_cache_mib)),
                "mounts": msgspec.structs.asdict(_mounts_of(config.nodes, choice.endpoints)),
            },
            ca_bundle=place.tls.bundle if place.tls is not None else "",
            open_files=place.open_files,
            max_nodes=max_nodes,
        )

        def sign(container: str, permissions: str, expires_at: float) -> str:
            return choice.storage.sign(container, None, permissions, expires_at)

        self.control = ControlService(
            name,
            SqliteStore(str(data_dir.store_path), BUSY_COMMITS),
            self.provider,
            vm_sizes_of(config),
            secret=data_dir.node_secret(),
            account_url=lambda: url,
            make_job=job_maker(vm_sizes_of(config), wall_clock),
            storage=choice.storage,
            scratch=str(data_dir.path),
            prepare_spec=SpecPreparer(sign, identities, time.time),
            identities=identities,
            settings=_settings_of(config),
        )
        quotas = AccountQuotas(
            account.pool_quota or None,
            account.active_job_and_job_schedule_quota or None,
            account.dedicated_core_quota or None,
            account.low_priority_core_quota or None,
        )
        self.parts = AccountParts(self.control, keys, auto_storage, data_dir, quotas, account.strict_images)

    async def stop_nodes(self) -> None:
        """End the host of the nodes, and all that they run."""
        await self.provider.stop_host()
        await self.provider.close()


class _FurtherAccounts:
    """Implements `AccountWorks`: each account in a directory of its own, with nodes of its own. Their host is started
    with the first node."""

    def __init__(self, config: Config, data_dir: DataDir, place: _Place) -> None:
        self._config = config
        self._data_dir = data_dir
        self._place = place
        self._services: dict[str, _AccountService] = {}
        self._locks: dict[str, DataDir] = {}
        self._started: set[str] = set()

    def names(self) -> list[str]:
        """See `AccountWorks.names`."""
        return [name for name in self._data_dir.account_names() if name != self._config.account.name]

    def make(self, name: str, settings: AccountSettings) -> None:
        """See `AccountWorks.make`."""
        with _start_failed():
            self._data_dir.make_account(name, msgspec.to_builtins(settings))

    def parts(self, name: str) -> AccountParts:
        """See `AccountWorks.parts`."""
        with _start_failed(), contextlib.ExitStack() as stack:
            data_dir = self._data_dir.account(name)
            lock = stack.enter_context(contextlib.closing(data_dir.open()))
            config = self._config.of_account(name, str(data_dir.path))
            service = _AccountService(config, data_dir, self._place, self._place.url + _path_of(name))
            stack.pop_all()
        self._locks[name], self._services[name] = lock, service
        return service.parts

    async def start(self, name: str) -> None:
        """See `AccountWorks.start`."""
        service, data_dir = self._services[name], self._data_dir.account(name)
        with _start_failed():
            service.choice.start()
            self._started.add(name)
            await service.control.start()
            await service.choice.ready()
            await service.provider.set_endpoint(self._place.url + _path_of(name))
            await service.provider.prepare(start=False)
            data_dir.write_storage(service.choice.facts)

    async def stop(self, name: str) -> None:
        """See `AccountWorks.stop`."""
        service = self._services.get(name)
        if service is not None and name in self._started:
            self._started.discard(name)
            await service.control.stop()
        if service is not None:
            await service.stop_nodes()
            await service.choice.stop()
        if lock := self._locks.pop(name, None):
            lock.close()

    async def empty(self, name: str) -> None:
        """See `AccountWorks.empty`."""
        service = self._services[name]
        if name in self._started:
            self._started.discard(name)
            await service.control.stop()
        with _start_failed():
            # The nodes' own host does it: it knows what of theirs is mounted, and which users were theirs.
            await service.provider.prepare(start=False)
            if not await service.provider.delete_all(_NODES_GO_S):
                _log.warning("not all nodes of the account %s were gone in %g s", name, _NODES_GO_S)

    def remove(self, name: str) -> None:
        """See `AccountWorks.remove`."""
        with _start_failed():
            self._data_dir.account(name).remove()
        self._services.pop(name, None)

    def kill(self) -> None:
        """End what runs of them at once."""
        for service in self._services.values():
            service.provider.kill_host()
            service.choice.kill()


@contextlib.contextmanager
def _start_failed() -> Iterator[None]:
    """What stands in the way of an account, in one line."""
    try:
        yield
    except (DataDirError, ChoiceError, AzuriteError, StartError) as error:
        raise StartFailed(str(error)) from error
    except (StoreUnavailable, LeaseLost, ProviderError, OSError, ValueError) as error:
        raise StartFailed(str(error) or type(error).__name__) from error


def _path_of(account: str) -> str:
    return f"{ACCOUNTS_PATH}{account}"


def _settings_of(config: Config) -> ControlSettings:
    account = config.account
    return ControlSettings(
        park_s=config.nodes.heartbeat_s,
        silent_after_s=config.nodes.silence_s,
        lost_after_s=config.nodes.lost_s,
        max_applications=account.max_applications or None,
        max_application_packages=account.max_application_packages or None,
        pool_quota=account.pool_quota or None,
        active_job_quota=account.active_job_and_job_schedule_quota or None,
        dedicated_core_quota=account.dedicated_core_quota or None,
        low_priority_core_quota=account.low_priority_core_quota or None,
        auto_scale_min_interval_s=config.autoscale.min_interval_s,
        auto_scale_on_queue_change=config.autoscale.on_queue_change,
        auto_scale_max_nodes=config.autoscale.max_nodes,
        events_file=config.log.events_file or None,
        sample_s=config.autoscale.sample_s,
        sample_history_s=config.autoscale.history_days * 86400.0,
        kept_log_file_bytes=config.kept_logs.file_kib << 10 if config.kept_logs.enabled else 0,
        kept_log_total_bytes=config.kept_logs.total_mib << 20,
        kept_log_s=config.kept_logs.days * 86400.0,
    )


def _tls_of(config: Config, data_dir: DataDir) -> "TlsFiles | None":
    """The certificates to serve with; None is plain http. Raises StartError."""
    server = config.server
    if not server.speaks_tls:
        if not is_loopback(server.host) and not server.insecure_http:
            raise StartError(
                f"{server.host} can be reached by other machines, and over plain http they could read and change all that "
                "passes; add --tls, or --insecure-http if that is what you want"
            )
        return None
    try:
        # Only who asks for TLS waits for it, and needs to have it installed.
        from millpond import tls
    except ModuleNotFoundError as error:
        raise StartError(f"TLS needs the library {error.name}; install it with pip install 'millpond[tls]'") from error
    now = datetime.datetime.now(datetime.UTC)
    try:
        if server.tls_certificate:
            return tls.given_certificates(
                server.tls_certificate, server.tls_key, server.tls_authority, data_dir.tls_path, server.host, now
            )
        hosts = [f"{name}.localhost" for name in data_dir.account_names()]
        names = tls.names_of_service(server.host, config.account.name, [*hosts, *server.tls_names.split(",")])
        return tls.own_certificates(data_dir.tls_path, names, now)
    except tls.TlsError as error:
        raise StartError(str(error)) from error


def _sign_in_of(config: Config, data_dir: DataDir, url: str) -> "tuple[SignIn, SignInRoutes | None]":
    """How callers sign in, and the routes of the development issuer if there is to be one. Raises StartError."""
    auth = config.auth
    modes = listed(auth.modes)
    issuers = listed(auth.issuers)
    if not issuers and not auth.development_issuer:
        return SignIn(modes), None
    try:
        # Only who asks for it waits for it, and needs to have it installed.
        from millpond.api.sign_in_routes import SignInRoutes
        from millpond.identity.development import DevelopmentIssuer, make_key
        from millpond.identity.oidc import KeySource, PublishedKeys, TokenVerifier
    except ModuleNotFoundError as error:
        raise StartError(f"signing in needs {error.name}; install it with pip install 'millpond[sign-in]'") from error
    sources: list[KeySource] = [PublishedKeys(issuer) for issuer in issuers]
    routes = None
    if auth.development_issuer:
        key = data_dir.sign_in_key(make_key)
        try:
            issuer = DevelopmentIssuer(config.account.name, data_dir.node_secret(), key, lambda: url, time.time)
        except ValueError as error:
            raise StartError(f"sign-in-key.pem in {data_dir.path} is damaged; remove it to get a new one") from error
        sources.append(issuer)
        routes = SignInRoutes(issuer)
    rules = RoleRules(
        listed(auth.role_claims),
        {value: Role[role.upper()] for value, _, role in (each.partition("=") for each in listed(auth.roles))},
        Role[auth.default_role.upper()] if auth.default_role else None,
    )
    verifier = TokenVerifier(sources, time.time, audiences=listed(auth.audiences), skew_s=auth.skew_s)
    return SignIn(modes, verifier, rules), routes


def _url_of(listener: socket.socket, tls: "TlsFiles | None") -> str:
    return url_of(listener, tls_host="" if tls is None else tls.host)


def _mounts_of(nodes: NodesConfig, endpoints: Mapping[str, str]) -> MountSettings:
    """What the nodes are told of mounts: the account's own storage is known, wherever it is."""
    known = dict(endpoints)
    for pair in filter(None, nodes.mount_endpoints.split(",")):
        name, _, endpoint = pair.partition("=")
        known[name] = endpoint
    return MountSettings(allow=tuple(path for path in nodes.mount_allow.split(":") if path), endpoints=known)


def _isolation_of(config: Config, data_dir: DataDir) -> tuple[IsolationSettings, int]:
    """What the nodes are told of isolation, and how many there may be: with it each needs user ids of its own. Raises
    StartError when it is asked for and cannot be had."""
    nodes = config.nodes
    max_nodes = nodes.max_nodes
    first, last = uid_range_of(nodes)
    settings = IsolationSettings(isolation=nodes.isolation, first_uid=first, last_uid=last, limits=nodes.limits)
    if nodes.isolation != "none":
        # Whether others get as far as the data directory; it is opened to them only if that helps.
        reason = why_not(str(data_dir.path), settings.uid_range)
        if not reason:
            data_dir.let_pass()
            max_nodes = min(max_nodes, settings.uid_range.blocks)
        elif nodes.isolation == "users":
            raise StartError(f"nodes.isolation is users, but {reason}; or set it to auto or none")
    return settings, max_nodes


def vm_sizes_of(config: Config) -> dict[str, VmSize]:
    """The catalogue of VM sizes by lower-case name: the built-in ones, and the user's own over them."""
    own = {
        name: VmSize(name, size.cores, size.memory_mib, size.price_per_hour) for name, size in config.vm_sizes.items()
    }
    return catalogue(own)


def _stop_on_signals(first: _AccountService, further: _FurtherAccounts) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            further.kill()
            first.provider.kill_host()
            first.choice.kill()
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop
