"""Signing in by tokens, with azure-identity as it is: the development issuer, roles, modes."""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential, TokenCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential, ManagedIdentityCredential

from tests.commands import millpond, plain_environment, said_by
from tests.conftest import MillpondProcess, ServiceFactory
from tests.process.test_up import make_pool
from tests.waiting import PATIENCE_S


def bundle_of(service: MillpondProcess) -> str:
    bundle: str = json.loads((service.data_dir / "endpoint.json").read_text())["bundle"]
    return bundle


def environment_of(service: MillpondProcess, role: str) -> dict[str, str]:
    environment: dict[str, str] = json.loads(said_by("env", "--json", "--entra", role, data_dir=service.data_dir))
    return environment


def credential_of(service: MillpondProcess, role: str, **more: str) -> ClientSecretCredential:
    environment = environment_of(service, role) | more
    return ClientSecretCredential(
        environment["AZURE_TENANT_ID"],
        environment["AZURE_CLIENT_ID"],
        environment["AZURE_CLIENT_SECRET"],
        authority=environment["AZURE_AUTHORITY_HOST"],
        disable_instance_discovery=True,
        connection_verify=bundle_of(service),
    )


def client_of(service: MillpondProcess, credential: TokenCredential) -> BatchClient:
    return BatchClient(service.endpoint, credential, connection_verify=bundle_of(service))


def test_each_role_may_do_its_own(secured: MillpondProcess) -> None:
    operator = client_of(secured, credential_of(secured, "operator"))
    make_pool(operator, 1)
    submitter = client_of(secured, credential_of(secured, "submitter"))
    submitter.create_task("j", m.BatchTaskCreateOptions(id="t", command_line="/bin/true"))
    with pytest.raises(HttpResponseError) as refused:
        submitter.begin_delete_pool("p")
    assert refused.value.status_code == 403
    assert "delete_pool needs the role operator" in str(refused.value)
    reader = client_of(secured, credential_of(secured, "reader"))
    assert [task.id for task in reader.list_tasks("j")] == ["t"]
    with pytest.raises(HttpResponseError) as refused:
        reader.delete_task("j", "t")
    assert "InsufficientAccountPermissions" in str(refused.value)
    admin = client_of(secured, credential_of(secured, "admin"))
    admin.delete_task("j", "t")


def test_a_managed_identity(secured: MillpondProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = environment_of(secured, "reader")
    assert "AZURE_BATCH_ACCESS_KEY" not in environment
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.setenv(name, environment[name])
    credential = ManagedIdentityCredential(connection_verify=bundle_of(secured))
    client = client_of(secured, credential)
    assert isinstance([job.id for job in client.list_jobs()], list)
    with pytest.raises(HttpResponseError, match="create_job needs the role submitter"):
        client.create_job(m.BatchJobCreateOptions(id="x", pool_info=m.BatchPoolInfo(pool_id="p")))


def test_a_wrong_secret(secured: MillpondProcess) -> None:
    credential = credential_of(secured, "admin", AZURE_CLIENT_SECRET="guess")
    with pytest.raises(ClientAuthenticationError, match="no such client id, or not its secret"):
        credential.get_token("https://batch.core.windows.net/.default")


def test_a_token_for_another_audience(secured: MillpondProcess) -> None:
    token = credential_of(secured, "admin").get_token("https://management.azure.com/.default").token
    assert _status(secured, token) == (401, "another audience")


def test_a_made_up_token(secured: MillpondProcess) -> None:
    assert _status(secured, "ey.made.up")[0] == 401
    assert _status(secured, "something")[0] == 401


def _status(service: MillpondProcess, token: str) -> tuple[int, str]:
    url = f"{service.endpoint}/jobs?api-version=2025-06-01"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(
            request, timeout=PATIENCE_S, context=ssl.create_default_context(cafile=bundle_of(service))
        )
    with refused.value as answer:
        text = answer.read().decode()
        return answer.code, "another audience" if "another audience" in text else text


def test_the_shell_forgets_the_key_that_would_be_used_first(secured: MillpondProcess) -> None:
    assert "millpond env --entra reader|submitter|operator|admin" in secured.log()
    command = 'eval "$("$0" -m millpond env --entra reader --data-dir "$1")" && env'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(secured.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        env=plain_environment() | {"AZURE_BATCH_ACCESS_KEY": "of an earlier eval"},
        check=True,
    )
    assert "AZURE_CLIENT_SECRET=" in done.stdout
    assert "AZURE_BATCH_ACCESS_KEY" not in done.stdout


def test_a_service_without_an_issuer_says_so(new_service: ServiceFactory) -> None:
    plain = new_service("data").start()
    done = millpond("env", "--entra", "admin", data_dir=plain.data_dir)
    assert done.returncode == 1
    assert "start it with millpond up --tls --development-issuer" in done.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{plain.endpoint}/MSI/token", timeout=PATIENCE_S)


def test_modes_that_the_account_does_not_take(new_service: ServiceFactory) -> None:
    service = new_service("data", environment={"MILLPOND_AUTH_MODES": "AAD"}).start()
    client = BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))
    with pytest.raises(HttpResponseError, match="The account does not take SharedKey; it takes AAD"):
        list(client.list_pools())


def test_the_signing_key_is_private_and_kept(secured: MillpondProcess) -> None:
    path = Path(secured.data_dir) / "sign-in-key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    key, before = path.read_bytes(), environment_of(secured, "reader")
    secured.stop()
    secured.start()
    after = environment_of(secured, "reader")
    assert path.read_bytes() == key
    assert before["AZURE_CLIENT_ID"] == after["AZURE_CLIENT_ID"]
    assert before["AZURE_CLIENT_SECRET"] == after["AZURE_CLIENT_SECRET"]
    assert list(client_of(secured, credential_of(secured, "reader")).list_job_schedules()) == []
