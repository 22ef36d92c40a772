"""The configuration: one frozen tree, and what its values may be. `config_sources` reads it, once."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Final, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta

ENVIRONMENT_PREFIX: Final = "MILLPOND_"
DEFAULT_PORT: Final = 10010

_POSITIVE_S: Final = "a number of seconds above 0"

Port = Annotated[int, Meta(ge=0, le=65535, description="a whole number from 0 to 65535 (0 takes a free port)")]
Host = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z.:_-]+\Z", description="an address or host name to listen on, such as 127.0.0.1")
]
AccountName = Annotated[str, Meta(pattern=r"^[a-z0-9]{3,24}\Z", description="3 to 24 lower-case letters and digits")]
Seconds = Annotated[float, Meta(gt=0, le=86400 * 3650, description=_POSITIVE_S)]
Quota = Annotated[int, Meta(ge=0, description="a whole number, 0 for no limit")]
Days = Annotated[float, Meta(gt=0, le=366, description="a number of days above 0, at most 366")]
NodeLimit = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
CacheMib = Annotated[
    int, Meta(ge=-1, le=1 << 30, description="a whole number of MiB, 0 for none, -1 for a tenth of the disk")
]
LogSize = Annotated[int, Meta(ge=1, le=4096, description="a whole number of KiB from 1 to 4096")]
StoreSize = Annotated[int, Meta(ge=1, description="a whole number of MiB, at least 1")]
Switch = Annotated[bool, Meta(description="true or false")]
Directory = Annotated[str, Meta(min_length=1, description="a directory's path")]
EventsFile = Annotated[str, Meta(description="a file's path, or nothing for none")]
LogLevel = Annotated[
    str,
    Meta(pattern=r"^(debug|info|warning|error)\Z", description="one of debug, info, warning, error"),
]
BlobPlace = Annotated[
    str,
    Meta(
        pattern=r"^(directory|azurite|https?://\S+)\Z",
        description="directory, azurite, or the URL of an Azure Blob account such as https://name.blob.core.windows.net",
    ),
]
_SECRET: Final = {"secret": True}
Secret = Annotated[str, Meta(min_length=0, description="a secret as text", extra=_SECRET)]

Management = Annotated[str, Meta(pattern=r"^(loopback|anywhere|off)\Z", description="one of loopback, anywhere, off")]
AuthModes = Annotated[
    str,
    Meta(
        pattern=r"^(SharedKey|AAD|TaskAuthenticationToken)(, *(SharedKey|AAD|TaskAuthenticationToken))*\Z",
        description="some of SharedKey, AAD, TaskAuthenticationToken, with commas between",
    ),
]
UrlList = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[^\s,]+(, *https?://[^\s,]+)*)?\Z",
        description="URLs with commas between, such as https://login.microsoftonline.com/<tenant>/v2.0",
    ),
]
TextList = Annotated[str, Meta(description="texts with commas between")]
_A_ROLE: Final = "(reader|submitter|operator|admin)"
RoleMap = Annotated[
    str,
    Meta(
        pattern=rf"^([^,=]+={_A_ROLE}(, *[^,=]+={_A_ROLE})*)?\Z",
        description="values and roles (reader, submitter, operator, admin), such as 9f1c…=operator,jane=reader",
    ),
]
DefaultRole = Annotated[
    str, Meta(pattern=rf"^{_A_ROLE}?\Z", description="one of reader, submitter, operator, admin, or empty for none")
]
Isolation = Annotated[str, Meta(pattern=r"^(auto|users|none)\Z", description="one of auto, users, none")]
Limits = Annotated[str, Meta(pattern=r"^(node|task|none)\Z", description="one of node, task, none")]
UidRange = Annotated[
    str,
    Meta(
        pattern=r"^[1-9][0-9]{3,9}-[1-9][0-9]{3,9}\Z",
        description="two whole numbers from 1000 with a hyphen between, such as 1900000000-1999999999",
    ),
]

Paths = Annotated[
    str,
    Meta(
        pattern=r"^(/[^:]*(:/[^:]*)*)?\Z", description="absolute paths with colons between, such as /data:/srv/models"
    ),
]
Endpoints = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]{3,24}=https?://[^\s,]+(,[a-z0-9]{3,24}=https?://[^\s,]+)*)?\Z",
        description="accounts and URLs with commas between, such as store=http://127.0.0.1:10000/store",
    ),
]


FilePath = Annotated[str, Meta(description="a file's path")]
HostNames = Annotated[
    str,
    Meta(
        pattern=r"^[0-9A-Za-z.:_, -]*\Z",
        description="host names and addresses with commas between, such as batch.example.org,10.0.0.5",
    ),
]


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the REST face listens, and how."""

    host: Host = "127.0.0.1"
    port: Port = DEFAULT_PORT
    management: Management = "loopback"
    """From where management tokens, made with an account key, are taken: this machine, anywhere, or nowhere."""
    tls: Switch = False
    """Whether it speaks https: by a certificate of its own making, unless one is given."""
    tls_certificate: FilePath = ""
    """A certificate of the operator's (PEM, with what stands between it and its authority); with `tls_key` it turns TLS
    on."""
    tls_key: FilePath = ""
    tls_authority: FilePath = ""
    """What that certificate is to be trusted by, where the machine does not trust it already."""
    tls_names: HostNames = ""
    """Further names in a certificate of the service's own making."""
    insecure_http: Switch = False
    """Whether plain http may be spoken where other machines can reach it."""

    @property
    def speaks_tls(self) -> bool:
        return self.tls or bool(self.tls_certificate)


class AccountConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first Batch account of the service, and what holds for those that are made beside it."""

    name: AccountName = "millpond"
    account_quota: Quota = 3
    """Accounts there may be in one subscription and location, the first one included; 0 is no limit."""
    pool_quota: Quota = 0
    """Pools there may be at a time; 0 is no limit."""
    dedicated_core_quota: Quota = 0
    """Cores that dedicated nodes may have together; 0 is no limit."""
    low_priority_core_quota: Quota = 0
    """Cores that low-priority nodes may have together; 0 is no limit."""
    max_applications: Quota = 20
    """Applications whose packages nodes can be given."""
    max_application_packages: Quota = 40
    """Packages (versions) of one application."""
    active_job_and_job_schedule_quota: Quota = 0
    """Jobs and job schedules that are not completed there may be at a time; 0 is no limit."""
    strict_images: Switch = False
    """Whether pools are refused whose image or node agent is not in the list of supported images."""


class NodesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a silent node is doubted, and when it is given up."""

    heartbeat_s: Seconds = 10.0
    """The longest a node's call is held back: it is heard of at least this often."""
    silence_s: Seconds = 15.0
    """Not heard of for so long, a node is `unknown` and gets no new tasks."""
    lost_s: Seconds = 60.0
    """Not heard of for so long, a node is given up and its tasks run elsewhere."""
    isolation: Isolation = "auto"
    """Whether tasks run as users of their own (`users`) or as the service's (`none`)."""
    uid_range: UidRange = "1900000000-1999999999"
    """The user ids, and group ids, those users have."""
    limits: Limits = "node"
    """What of memory and processors is shared out: the node's among all its tasks, or each task its part."""
    input_cache_mib: CacheMib = -1
    """What resource files may take of the disk, on a machine's nodes together, to be fetched once for many tasks; -1 is
    a tenth of the disk, at most 10 GiB."""
    max_nodes: NodeLimit = 20_000
    """How many nodes of all pools of an account this machine is to have; a pool that wants more has a resize error."""
    mount_allow: Paths = ""
    """Directories of the nodes' hosts that pools may mount, with all below them."""
    mount_endpoints: Endpoints = ""
    """Blob endpoints of storage accounts that pools mount and that are not Azure's."""


class AutoscaleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pools that scale themselves by a formula."""

    min_interval_s: Seconds = 300.0
    """The shortest interval between evaluations a user may ask for."""
    on_queue_change: Switch = False
    """Formulas are evaluated also soon after the tasks of their pool have changed."""
    max_nodes: NodeLimit = 100_000
    """Nodes a formula may ask for, of both kinds together; more are cut off."""
    sample_s: Seconds = 30.0
    """How often every pool is sampled for formulas."""
    history_days: Days = 2.0
    """How long samples are kept."""


class StorageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the account's auto-storage is."""

    blob: BlobPlace = "directory"
    """A directory of the service, an Azurite beside it, or an account of Azure Blob storage by its URL."""
    account_key: Secret = ""
    """Of the account at that URL; for Azurite the key it is to have (empty: a random one)."""
    connection_string: Secret = ""
    """Of an account of Azure Blob storage, instead of URL and key."""
    azurite_port: Port = 0
    """0 takes a free one and keeps to it."""


class KeptLogsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Logs of tasks, kept in auto-storage when their node is gone."""

    enabled: Switch = True
    file_kib: LogSize = 1024
    """How much is kept of each file: of a longer one, its two ends."""
    total_mib: StoreSize = 10_240
    """How much is kept of all of them; the oldest go first."""
    days: Days = 30.0
    """How long they are kept, if their task is not deleted before."""


class AuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How callers show who they are, and what they may do."""

    modes: AuthModes = "SharedKey,AAD,TaskAuthenticationToken"
    """Azure Batch: allowedAuthenticationModes."""
    issuers: UrlList = ""
    """OpenID Connect issuers whose tokens are taken."""
    audiences: TextList = ""
    """Taken beside those of Azure Batch and Azure Resource Manager."""
    role_claims: TextList = "roles,groups,oid,appid,azp,sub"
    """Claims of a token that are looked up for a role."""
    roles: RoleMap = ""
    """Role by value of such a claim."""
    default_role: DefaultRole = ""
    """Of a good token that gives none; empty turns it away."""
    skew_s: Seconds = 300.0
    """How far the clocks of issuers and ours may be apart."""
    development_issuer: Switch = False
    """Whether the service issues tokens itself, in the ways of Microsoft Entra ID."""


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written to standard error."""

    level: LogLevel = "warning"
    events_file: EventsFile = ""
    """A file that events of the service log are appended to, one JSON object a line; empty is none."""


class VmSizeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VM size of the user's own, or another opinion on a built-in one: `[vm_sizes.<name>]`."""

    cores: Annotated[int, Meta(ge=1, le=4096, description="a whole number of cores, at least 1")]
    memory_mib: Annotated[int, Meta(ge=1, description="a whole number of MiB, at least 1")]
    price_per_hour: Annotated[float, Meta(ge=0, description="US dollars, 0 or more")] = 0.0


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an identity of pools may use: `[identities.<name>]`. One kind of storage each: an Azure Blob account (by key,
    by connection string or by a signature), S3, or Google Cloud Storage."""

    resource_id: Annotated[str, Meta(max_length=1024, description="the identity's resource id in Azure")] = ""
    """By which pools and tasks may name it, besides its own name."""
    account_url: Annotated[
        str, Meta(pattern=r"^(https?://\S+)?\Z", description="a URL such as https://name.blob.core.windows.net")
    ] = ""
    account_key: Secret = ""
    connection_string: Secret = ""
    sas: Secret = ""
    """A shared access signature for what lies below `account_url`, as a query string."""
    access_key_id: Annotated[str, Meta(description="the id of an access key")] = ""
    secret_access_key: Secret = ""
    session_token: Secret = ""
    region: Annotated[str, Meta(description="a region such as eu-central-1")] = ""
    endpoint: Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z", description="the URL of a server that speaks S3")] = ""
    service_account_file: Annotated[str, Meta(description="the path of a service account's key file (JSON)")] = ""
    bucket: Annotated[str, Meta(description="a bucket's name")] = ""
    """The only S3 or GCS bucket it is for; empty: any."""


class FurtherAccountConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is other for one further account than for the first: `[accounts.<name>]`. Only what is given counts."""

    pool_quota: Quota = 0
    dedicated_core_quota: Quota = 0
    low_priority_core_quota: Quota = 0
    max_applications: Quota = 0
    max_application_packages: Quota = 0
    active_job_and_job_schedule_quota: Quota = 0
    strict_images: Switch = False
    connection_string: Secret = ""
    """Of the Azure Blob account that is its auto-storage, instead of a directory."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole tree."""

    data_dir: Directory
    """All state lives below it: an absolute path."""
    server: ServerConfig = ServerConfig()
    account: AccountConfig = AccountConfig()
    nodes: NodesConfig = NodesConfig()
    autoscale: AutoscaleConfig = AutoscaleConfig()
    storage: StorageConfig = StorageConfig()
    kept_logs: KeptLogsConfig = KeptLogsConfig()
    auth: AuthConfig = AuthConfig()
    log: LogConfig = LogConfig()
    vm_sizes: dict[str, VmSizeConfig] = {}
    """By name in lower case; added to the built-in catalogue."""
    identities: dict[str, IdentityConfig] = {}
    """By name, as given."""
    accounts: dict[str, dict[str, Any]] = {}
    """What is given of further accounts, by their name: keys of `FurtherAccountConfig`."""

    def of_account(self, name: str, data_dir: str) -> "Config":
        """The same for a further account, whose state lives in `data_dir`."""
        given = dict(self.accounts.get(name, {}))
        storage = StorageConfig(connection_string=given.pop("connection_string", ""))
        account = msgspec.structs.replace(self.account, name=name, **given)
        log = self.log
        if log.events_file:
            # A file of its own beside the first account's, as the events do not say whose they are.
            path = PurePath(log.events_file)
            log = msgspec.structs.replace(log, events_file=str(path.with_stem(f"{path.stem}.{name}")))
        return msgspec.structs.replace(self, data_dir=data_dir, account=account, storage=storage, log=log, accounts={})


class Setting(NamedTuple):
    """One value of the tree that has a name of its own."""

    key: str
    """Dotted, as in the file: `server.port`."""
    type: Any
    """Annotated with a `Meta` whose description says what the value must be."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.key.replace(".", "_").upper()

    @property
    def must_be(self) -> str:
        return next((m.description for m in self._metas), None) or "another value"

    @property
    def is_secret(self) -> bool:
        """Never to be shown."""
        return any(m.extra is not None and "secret" in m.extra for m in self._metas)

    @property
    def _metas(self) -> list[Meta]:
        return [m for m in get_args(self.type)[1:] if isinstance(m, Meta)]


SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "server": ServerConfig,
    "account": AccountConfig,
    "nodes": NodesConfig,
    "autoscale": AutoscaleConfig,
    "storage": StorageConfig,
    "kept_logs": KeptLogsConfig,
    "auth": AuthConfig,
    "log": LogConfig,
}


def settings_of(struct: type[msgspec.Struct], prefix: str) -> Iterator[Setting]:
    """The settings of a table, their keys after the prefix."""
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        yield Setting(prefix + field.name, hints[field.name])


SETTINGS: Final[dict[str, Setting]] = {
    setting.key: setting
    for setting in (
        Setting("data_dir", Directory),
        *(s for name, struct in SECTIONS.items() for s in settings_of(struct, name + ".")),
    )
}
"""Every setting that a file, a variable or a flag can give, by dotted key."""


def uid_range_of(nodes: NodesConfig) -> tuple[int, int]:
    """The first and the last user id of nodes' users."""
    first, _, last = nodes.uid_range.partition("-")
    return int(first), int(last)


def listed(text: str) -> tuple[str, ...]:
    """The parts of a setting with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
