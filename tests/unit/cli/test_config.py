"""The configuration: precedence, checks, and errors that name their source."""

from pathlib import Path

import pytest

from millpond import config
from millpond.config import Config
from millpond.config_sources import ConfigError, Flag, load


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    loaded = load(environ={})
    assert loaded == Config(data_dir=str(tmp_path / "data" / "millpond"))
    assert (loaded.server.host, loaded.server.port, loaded.account.name) == ("127.0.0.1", 10010, "millpond")


def test_the_default_file_is_read_when_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "millpond").mkdir()
    write(tmp_path / "millpond" / "millpond.toml", "[server]\nport = 1234\n")
    assert load(environ={}).server.port == 1234


def test_environment_wins_over_file_and_flag_over_both(tmp_path: Path) -> None:
    file = write(tmp_path / "m.toml", '[server]\nport = 1\nhost = "127.0.0.2"\n[account]\nname = "fromfile"\n')
    environ = {"MILLPOND_SERVER_PORT": "2", "MILLPOND_ACCOUNT_NAME": "fromenv"}
    loaded = load(config_path=file, environ=environ, flags={"server.port": Flag("--port", 3)})
    assert loaded.server.port == 3
    assert loaded.account.name == "fromenv"
    assert loaded.server.host == "127.0.0.2"


def test_the_variable_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "m.toml", "[server]\nport = 7\n")
    assert load(environ={"MILLPOND_CONFIG": str(file)}).server.port == 7


def test_vm_sizes_come_from_the_file_by_lower_case_name(tmp_path: Path) -> None:
    file = write(tmp_path / "m.toml", "[vm_sizes.My_Size]\ncores = 8\nmemory_mib = 4096\nprice_per_hour = 0.25\n")
    sizes = load(config_path=file, environ={}).vm_sizes
    assert sizes == {"my_size": config.VmSizeConfig(cores=8, memory_mib=4096, price_per_hour=0.25)}


def test_data_dir_is_absolute_and_knows_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(environ={"MILLPOND_DATA_DIR": "~/pond"}).data_dir == str(tmp_path / "pond")
    monkeypatch.chdir(tmp_path)
    assert load(environ={"MILLPOND_DATA_DIR": "pond"}).data_dir == str(tmp_path / "pond")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nport = 70000\n", "server.port: must be a whole number from 0 to 65535"),
        ('[server]\nport = "80"\n', "server.port: must be a whole number"),
        ("[server]\nport = true\n", "server.port: must be a whole number"),
        ("[server]\nprot = 80\n", "server.prot: no such setting; did you mean server.port?"),
        ("prot = 80\n", "prot: no such setting; "),
        ("server = 3\n", "server: must be a table"),
        ('[account]\nname = "No Good"\n', "account.name: must be 3 to 24 lower-case letters and digits"),
        ('[account]\nname = "good\\n"\n', "account.name: must be 3 to 24"),
        ('data_dir = ""\n', "data_dir: must be a directory's path"),
        ("[nodes]\nlost_s = -1\n", "nodes.lost_s: must be a number of seconds above 0"),
        ("[nodes]\nlost_s = nan\n", "nodes.lost_s: must be a number of seconds above 0"),
        ("[nodes]\nlost_s = inf\n", "nodes.lost_s: must be a number of seconds above 0"),
        ("[nodes]\nsilence_s = 400\n", "nodes.lost_s (60) must be above nodes.silence_s (400)"),
        ("[nodes]\nisolation = 'yes'\n", "nodes.isolation: must be one of auto, users, none"),
        ("[nodes]\nlimits = 'job'\n", "nodes.limits: must be one of node, task, none"),
        ("[nodes]\nuid_range = '5'\n", "nodes.uid_range: must be two whole numbers"),
        ("[nodes]\nuid_range = '2000-1000'\n", "nodes.uid_range must hold at least 1024 numbers"),
        ("[nodes]\nuid_range = '1000-1500'\n", "nodes.uid_range must hold at least 1024 numbers"),
        ("[nodes]\nuid_range = '1000-9999999999'\n", "below 4294967294"),
        ("[log]\nlevel = 'loud'\n", "log.level: must be one of debug, info, warning, error"),
        ("[vm_sizes.x]\ncores = 1\n", "vm_sizes.x: memory_mib is missing"),
        ("[vm_sizes.x]\ncores = 0\nmemory_mib = 1\n", "vm_sizes.x.cores: must be a whole number of cores"),
        ("[vm_sizes.x]\ncpus = 1\n", "vm_sizes.x.cpus: no such setting; "),
        ("[vm_sizes.'a b']\ncores = 1\n", "vm_sizes.a b: a size's name"),
        ("[vm_sizes.a]\ncores=1\nmemory_mib=1\n[vm_sizes.A]\ncores=1\nmemory_mib=1\n", "is there twice"),
        ("vm_sizes = 3\n", "vm_sizes: must be tables"),
        ("vm_sizes.x = 3\n", "vm_sizes.x: must be a table"),
        ("[server\n", "is not valid TOML"),
    ],
)
def test_an_error_names_the_file_and_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path / "m.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(config_path=file, environ={})
    message = str(caught.value)
    assert message.startswith(str(file))
    assert expected in message
    assert "\n" not in message


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*--config"):
        load(config_path=tmp_path / "none.toml", environ={})


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(config_path=tmp_path / "m.toml", environ={})


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("MILLPOND_SERVER_PORT", "many", "MILLPOND_SERVER_PORT: must be a whole number from 0 to 65535"),
        ("MILLPOND_SERVER_PROT", "1", "did you mean MILLPOND_SERVER_PORT?"),
        ("MILLPOND_PORT", "1", "no such setting"),
        ("MILLPOND_NODES_LOST_S", "1", "MILLPOND_NODES_LOST_S: nodes.lost_s (1) must be above"),
        ("MILLPOND_SERVER_HOST", "http://x/", "MILLPOND_SERVER_HOST: must be an address or host name"),
    ],
)
def test_an_error_names_the_variable(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={variable: text})
    assert variable in str(caught.value)
    assert expected in str(caught.value)


def test_an_error_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"--port: must be a whole number from 0 to 65535"):
        load(environ={}, flags={"server.port": Flag("--port", 99999)})


def test_every_setting_can_be_given_by_its_variable() -> None:
    texts = {
        "data_dir": "/tmp/x",
        "server.host": "::1",
        "account.name": "abc",
        "log.level": "info",
        "nodes.heartbeat_s": "1",
        "nodes.silence_s": "2.5",
        "nodes.lost_s": "9",
        "nodes.isolation": "none",
        "nodes.uid_range": "5000-9000",
        "nodes.limits": "task",
        "nodes.max_nodes": "7",
        "nodes.mount_allow": "/data:/srv",
        "nodes.mount_endpoints": "store=http://127.0.0.1:10000/store",
        "autoscale.on_queue_change": "true",
        "server.management": "off",
        "kept_logs.enabled": "false",
        "account.strict_images": "true",
        "server.tls": "true",
        "auth.modes": "AAD",
        "auth.issuers": "https://issuer.example",
        "auth.roles": "jane=reader",
        "auth.default_role": "submitter",
        "auth.development_issuer": "true",
        "server.insecure_http": "true",
        "storage.blob": "directory",
        "storage.account_key": "",
    }
    environ = {s.variable: texts.get(key, "77") for key, s in config.SETTINGS.items()}
    loaded = load(environ=environ)
    for key in config.SETTINGS:
        section, _, name = key.rpartition(".")
        value = getattr(getattr(loaded, section) if section else loaded, name)
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        assert shown in (texts.get(key, "77"), texts.get(key, "77") + ".0")


def test_the_agents_own_markers_are_not_settings() -> None:
    assert (
        load(environ={"MILLPOND_TASK_ID": "n/1/1", "MILLPOND_PROCESS": "x", "MILLPOND_KEEP_FILES": "*"}).server.port
        == 10010
    )


KEY = "c2VjcmV0LXNlY3JldA=="
STRING = f"AccountName=a;AccountKey={KEY}"


def private(path: Path, text: str) -> Path:
    write(path, text).chmod(0o600)
    return path


def test_identities_come_from_the_file(tmp_path: Path) -> None:
    file = private(
        tmp_path / "m.toml",
        f"""
        [storage]
        blob = "https://acct.blob.core.windows.net"
        account_key = "{KEY}"
        [identities.Reader-1]
        resource_id = "/subscriptions/s/userAssignedIdentities/reader"
        connection_string = "{STRING}"
        [identities.lab]
        access_key_id = "id"
        secret_access_key = "key"
        bucket = "results"
        """,
    )
    loaded = load(config_path=file, environ={})
    assert loaded.storage.account_key == KEY
    assert loaded.identities["Reader-1"].connection_string == STRING
    assert (loaded.identities["lab"].bucket, loaded.identities["lab"].endpoint) == ("results", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[storage]\nblob = "s3://bucket"\n', "storage.blob: must be directory, azurite, or the URL of an Azure Blob"),
        (
            '[storage]\nblob = "https://a.blob.core.windows.net"\n',
            "its key is missing; set MILLPOND_STORAGE_ACCOUNT_KEY",
        ),
        (f'[storage]\naccount_key = "{KEY}"\n', "the key is of an account that storage.blob must name"),
        (f'[storage]\nblob = "azurite"\nconnection_string = "{STRING}"\n', "a connection string names its account"),
        ("[storage]\naccount_key = 17\n", "storage.account_key: must be a secret as text, not what it is"),
        ("[identities.a]\n", "identities.a: needs credentials of one kind"),
        (f'[identities.a]\naccount_key = "{KEY}"\n', "identities.a: account_url is missing"),
        ('[identities.a]\naccess_key_id = "x"\n', "access_key_id and secret_access_key go together"),
        (f'[identities.a]\nsas = "x"\nconnection_string = "{STRING}"\n', "exclude each other"),
        ('[identities.a]\nservice_account_file = "x"\nsas = "y"\n', "needs credentials of one kind"),
        ('[identities.a]\nkey = "x"\n', "identities.a.key: no such setting"),
        ('[identities."a b"]\nsas = "x"\n', "an identity's name has letters"),
    ],
)
def test_what_is_wrong_with_storage(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(config_path=private(tmp_path / "m.toml", text), environ={})
    assert expected in str(error.value)
    for secret in (KEY, "17"):
        assert secret not in str(error.value).replace(str(tmp_path), "")


def test_a_file_with_secrets_is_for_its_owner_only(tmp_path: Path) -> None:
    file = private(tmp_path / "m.toml", f'[storage]\nconnection_string = "{STRING}"\n')
    assert load(config_path=file, environ={}).storage.connection_string == STRING
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read it; run chmod 600"):
        load(config_path=file, environ={})


def test_what_is_given_of_a_further_account_counts_over_the_first(tmp_path: Path) -> None:
    file = private(
        tmp_path / "m.toml",
        f"""
        [account]
        pool_quota = 5
        max_applications = 7
        [log]
        events_file = "/var/log/events.jsonl"
        [storage]
        connection_string = "{STRING}"
        [accounts.render]
        pool_quota = 2
        connection_string = "{STRING}2"
        """,
    )
    loaded = load(config_path=file, environ={})
    render, model = (loaded.of_account(name, f"/data/{name}") for name in ("render", "model"))
    assert (render.account.name, render.account.pool_quota, render.account.max_applications) == ("render", 2, 7)
    assert (model.account.name, model.account.pool_quota) == ("model", 5)
    assert (render.storage.connection_string, model.storage.connection_string) == (f"{STRING}2", "")
    assert (render.data_dir, render.log.events_file) == ("/data/render", "/var/log/events.render.jsonl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[accounts]\nrender = "x"\n', "accounts.render: must be a table with some of pool_quota"),
        ("accounts = 3\n", "accounts: must be tables; write [accounts.my_account]"),
        ("[accounts.No]\n", "accounts.No: an account's name has 3 to 24 lower-case letters and digits"),
        ("[accounts.render]\npool_quota = -1\n", "accounts.render.pool_quota: must be a whole number, 0 for no limit"),
        ("[accounts.render]\npools = 1\n", "accounts.render.pools: no such setting; did you mean"),
    ],
)
def test_what_is_wrong_with_accounts(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(config_path=private(tmp_path / "m.toml", text), environ={})
    assert expected in str(error.value)
