"""Where the values of the configuration come from.

They are, in order of rising precedence, the defaults in `config`, a TOML file, environment variables `MILLPOND_…` and
command-line flags. Every value is checked where it comes from, so that an error can name its source, what is wrong
with it and what to do. Nothing is ignored: an unknown key is an error.
"""

import difflib
import itertools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import platformdirs

from millpond.config import (
    ENVIRONMENT_PREFIX,
    SECTIONS,
    SETTINGS,
    Config,
    FurtherAccountConfig,
    IdentityConfig,
    Setting,
    StorageConfig,
    VmSizeConfig,
    settings_of,
    uid_range_of,
)

_ROOTS_DATA_DIR: Final = Path("/var/lib/millpond")
_MIN_UIDS: Final = 1024
_NO_UID: Final = 0xFFFFFFFE
_VM_SIZES: Final = "vm_sizes"
_IDENTITIES: Final = "identities"
_ACCOUNTS: Final = "accounts"
_VM_SIZE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_IDENTITY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")
_ACCOUNT_NAME: Final = re.compile(r"[a-z0-9]{3,24}\Z")
_FOR_OTHERS: Final = 0o077


class ConfigError(Exception):
    """A value, a key or the file cannot be used. The text is one line: the source, what is wrong, what to do."""


class Flag(NamedTuple):
    """A value given on the command line: the flag as the user typed it, and the value."""

    name: str
    value: Any


def default_config_path() -> Path:
    """The file that is read when no other is named, if it exists."""
    return Path(platformdirs.user_config_dir("millpond")) / "millpond.toml"


def default_data_dir() -> Path:
    """Root's is where the users tasks run as can reach their files, which below root's home they could not: unless there
    is one at home already."""
    at_home = Path(platformdirs.user_data_dir("millpond"))
    if os.geteuid() != 0 or os.environ.get("XDG_DATA_HOME") or at_home.exists():
        return at_home
    return _ROOTS_DATA_DIR


def load(
    *,
    config_path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Flag] | None = None,
) -> Config:
    """Read the configuration. `flags` maps dotted keys to what the command line says.

    `config_path` None takes the variable MILLPOND_CONFIG, then the default file if there is one. Raises ConfigError.
    """
    environ = environ if environ is not None else os.environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    tables: dict[str, Any] = {}

    path = _config_file(config_path, environ)
    if path is not None:
        file_values, tables = _read_file(path)
        values.update(file_values)
        sources.update(dict.fromkeys(file_values, str(path)))
    for key, variable, text in _read_environment(environ):
        values[key] = _convert(SETTINGS[key], text, variable, lax=True)
        sources[key] = variable
    for key, flag in (flags or {}).items():
        values[key] = _convert(SETTINGS[key], flag.value, flag.name, lax=False)
        sources[key] = flag.name

    data_dir = Path(values.pop("data_dir", None) or default_data_dir()).expanduser()
    tree: dict[str, Any] = {"data_dir": str(data_dir.absolute()), **tables}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    config = msgspec.convert(tree, Config)
    _check_together(config, sources)
    return config


def _config_file(given: Path | None, environ: Mapping[str, str]) -> Path | None:
    if given is None:
        named = environ.get(ENVIRONMENT_PREFIX + "CONFIG")
        if not named:
            default = default_config_path()
            return default if default.is_file() else None
        given = Path(named).expanduser()
    return given


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings by dotted key, and the tables of VM sizes, identities and accounts."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing file with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}; correct that line") from error

    values: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    secrets: list[str] = []
    for name, content in document.items():
        if name == _VM_SIZES:
            tables[name] = _read_vm_sizes(path, content)
        elif name == _IDENTITIES:
            tables[name] = _read_identities(path, content, secrets)
        elif name == _ACCOUNTS:
            tables[name] = _read_accounts(path, content, secrets)
        elif name in SECTIONS:
            if not isinstance(content, dict):
                raise ConfigError(f"{path}: {name}: must be a table; write [{name}] and its keys below")
            for key, value in content.items():
                dotted = f"{name}.{key}"
                setting = SETTINGS.get(dotted) or _unknown_key(path, dotted)
                values[dotted] = _convert(setting, value, f"{path}: {dotted}", lax=False)
                if setting.is_secret:
                    secrets.append(dotted)
        else:
            setting = SETTINGS.get(name) or _unknown_key(path, name)
            values[name] = _convert(setting, value=content, source=f"{path}: {name}", lax=False)
    if secrets and path.stat().st_mode & _FOR_OTHERS:
        raise ConfigError(f"{path}: holds a secret ({secrets[0]}) and others may read it; run chmod 600 on it")
    return values, tables


def _read_identities(path: Path, content: Any, secrets: list[str]) -> dict[str, IdentityConfig]:
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: {_IDENTITIES}: must be tables; write [{_IDENTITIES}.my_identity] and its keys below"
        )
    identities: dict[str, IdentityConfig] = {}
    settings = {s.key: s for s in settings_of(IdentityConfig, "")}
    for name, row in content.items():
        where = f"{_IDENTITIES}.{name}"
        if not _IDENTITY_NAME.match(name):
            raise ConfigError(f"{path}: {where}: an identity's name has letters, digits, - and _ only; rename it")
        identities[name] = identity = IdentityConfig(**_read_row(path, where, row, settings, secrets))
        if problem := _identity_problem(identity):
            raise ConfigError(f"{path}: {where}: {problem}")
    return identities


def _read_accounts(path: Path, content: Any, secrets: list[str]) -> dict[str, dict[str, Any]]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {_ACCOUNTS}: must be tables; write [{_ACCOUNTS}.my_account] and its keys below")
    settings = {s.key: s for s in settings_of(FurtherAccountConfig, "")}
    accounts: dict[str, dict[str, Any]] = {}
    for name, row in content.items():
        where = f"{_ACCOUNTS}.{name}"
        if not _ACCOUNT_NAME.match(name):
            raise ConfigError(
                f"{path}: {where}: an account's name has 3 to 24 lower-case letters and digits; rename it"
            )
        accounts[name] = _read_row(path, where, row, settings, secrets)
    return accounts


def _read_row(path: Path, where: str, row: Any, settings: Mapping[str, Setting], secrets: list[str]) -> dict[str, Any]:
    """One table of many alike, by key; the dotted keys of its secrets are added to `secrets`."""
    if not isinstance(row, dict):
        raise ConfigError(f"{path}: {where}: must be a table with some of {', '.join(settings)}")
    values = {}
    for key, value in row.items():
        setting = settings.get(key) or _unknown_key(path, f"{where}.{key}", [f"{where}.{k}" for k in settings])
        values[key] = _convert(setting, value, f"{path}: {where}.{key}", lax=False)
        if setting.is_secret:
            secrets.append(f"{where}.{key}")
    return values


def _identity_problem(identity: IdentityConfig) -> str:
    """What is wrong with the keys together; empty if nothing is."""
    azure = [bool(identity.account_key), bool(identity.connection_string), bool(identity.sas)]
    s3, gcs = bool(identity.access_key_id or identity.secret_access_key), bool(identity.service_account_file)
    if any(azure) + s3 + gcs != 1:
        return "needs credentials of one kind: of an Azure Blob account, of S3, or of Google Cloud Storage"
    if sum(azure) > 1:
        return "account_key, connection_string and sas exclude each other; keep one"
    if (identity.account_key or identity.sas) and not identity.account_url:
        return "account_url is missing; give it a URL such as https://name.blob.core.windows.net"
    if s3 and not (identity.access_key_id and identity.secret_access_key):
        return "access_key_id and secret_access_key go together; give both"
    return ""


def _read_vm_sizes(path: Path, content: Any) -> dict[str, VmSizeConfig]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {_VM_SIZES}: must be tables; write [{_VM_SIZES}.my_size] and its keys below")
    sizes: dict[str, VmSizeConfig] = {}
    settings = {s.key: s for s in settings_of(VmSizeConfig, "")}
    for given, row in content.items():
        where = f"{_VM_SIZES}.{given}"
        name = given.lower()
        if not _VM_SIZE_NAME.match(name):
            raise ConfigError(f"{path}: {where}: a size's name has letters, digits and _ only; rename it")
        if name in sizes:
            raise ConfigError(f"{path}: {where}: this size is there twice (case does not matter); remove one")
        values = _read_row(path, where, row, settings, [])
        for required in ("cores", "memory_mib"):
            if required not in values:
                raise ConfigError(f"{path}: {where}: {required} is missing; give it {settings[required].must_be}")
        sizes[name] = VmSizeConfig(**values)
    return sizes


def _read_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(key, variable, text) of every setting the environment gives."""
    by_variable = {setting.variable: key for key, setting in SETTINGS.items()}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == ENVIRONMENT_PREFIX + "CONFIG":
            continue
        if variable in by_variable:
            yield by_variable[variable], variable, text
        elif _is_meant_for_us(variable):
            raise ConfigError(f"{variable}: no such setting; {_suggestion(variable, list(by_variable))}")


def _is_meant_for_us(variable: str) -> bool:
    """Whether an unknown variable looks like a setting. A service may itself run inside a Millpond task, and there the
    agent's own markers (`MILLPOND_TASK_…`) are in the environment, and what the task says of its logs."""
    return not variable.startswith(
        (ENVIRONMENT_PREFIX + "TASK_", ENVIRONMENT_PREFIX + "PROCESS", ENVIRONMENT_PREFIX + "KEEP_FILES")
    )


def _convert(setting: Setting, value: Any, source: str, *, lax: bool) -> Any:
    """`lax` reads numbers from text, as environment variables carry them."""
    try:
        return msgspec.convert(value, setting.type, strict=not lax)
    except msgspec.ValidationError:
        given = "what it is" if setting.is_secret else repr(value)
        raise ConfigError(f"{source}: must be {setting.must_be}, not {given}; correct it") from None


def _unknown_key(path: Path, key: str, known: list[str] | None = None) -> Setting:
    names = known if known is not None else [*SETTINGS, _VM_SIZES, _IDENTITIES, _ACCOUNTS]
    raise ConfigError(f"{path}: {key}: no such setting; {_suggestion(key, names)}")


def _suggestion(given: str, known: list[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return (
        f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}."
    ) + " Correct or remove it"


def _check_together(config: Config, sources: Mapping[str, str]) -> None:
    nodes = config.nodes
    first, last = uid_range_of(nodes)
    if last - first < _MIN_UIDS or last >= _NO_UID:
        raise ConfigError(
            f"{sources.get('nodes.uid_range', 'the defaults')}: nodes.uid_range must hold at least {_MIN_UIDS} numbers "
            f"below {_NO_UID}, the smaller first, not {nodes.uid_range!r}; correct it"
        )
    _check_storage(config.storage, sources)
    server = config.server
    if bool(server.tls_certificate) != bool(server.tls_key):
        given, missing = ("tls_certificate", "tls_key") if server.tls_certificate else ("tls_key", "tls_certificate")
        raise ConfigError(f"{sources[f'server.{given}']}: server.{given} needs server.{missing} beside it; give both")
    ordered = (
        ("nodes.heartbeat_s", nodes.heartbeat_s),
        ("nodes.silence_s", nodes.silence_s),
        ("nodes.lost_s", nodes.lost_s),
    )
    for (lower, low), (upper, high) in itertools.pairwise(ordered):
        if low >= high:
            source = sources.get(upper) or sources.get(lower) or "the defaults"
            raise ConfigError(
                f"{source}: {upper} ({high:g}) must be above {lower} ({low:g}); raise one or lower the other"
            )


def _check_storage(storage: StorageConfig, sources: Mapping[str, str]) -> None:
    blob = sources.get("storage.blob", "the defaults")
    if storage.connection_string and (storage.blob != "directory" or storage.account_key):
        source = sources["storage.connection_string"]
        raise ConfigError(
            f"{source}: a connection string names its account and key: leave storage.blob and the key out"
        )
    if storage.account_key and storage.blob == "directory":
        source = sources["storage.account_key"]
        raise ConfigError(f"{source}: the key is of an account that storage.blob must name; give both or neither")
    if "://" in storage.blob and not storage.account_key:
        raise ConfigError(
            f"{blob}: storage.blob names an account, and its key is missing; "
            "set MILLPOND_STORAGE_ACCOUNT_KEY, or give a connection string instead"
        )
