"""Signing in by tokens, with azure-identity as it is: the development issuer, roles, modes."""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential, TokenCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential, ManagedIdentityCredential

from tests.conftest import REPOSITORY, MillpondProcess, ServiceFactory
from tests.process.test_up import make_pool


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    running = MillpondProcess(tmp_path_factory.mktemp("service") / "data", "--tls", "--development-issuer")
    try:
        yield running.start()
    finally:
        running.stop()


def bundle_of(service: MillpondProcess) -> str:
    bundle: str = json.loads((service.data_dir / "endpoint.json").read_text())["bundle"]
    return bundle


def environment_of(service: MillpondProcess, role: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "millpond", "env", "--json", "--entra", role, "--data-dir", str(service.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    environment: dict[str, str] = json.loads(done.stdout)
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


def test_each_role_may_do_its_own(service: MillpondProcess) -> None:
    operator = client_of(service, credential_of(service, "operator"))
    make_pool(operator, 1)
    submitter = client_of(service, credential_of(service, "submitter"))
    submitter.create_task("j", m.BatchTaskCreateOptions(id="t", command_line="/bin/true"))
    with pytest.raises(HttpResponseError) as refused:
        submitter.begin_delete_pool("p")
    assert refused.value.status_code == 403
    assert "delete_pool needs the role operator" in str(refused.value)
    reader = client_of(service, credential_of(service, "reader"))
    assert [task.id for task in reader.list_tasks("j")] == ["t"]
    with pytest.raises(HttpResponseError) as refused:
        reader.delete_task("j", "t")
    assert "InsufficientAccountPermissions" in str(refused.value)
    admin = client_of(service, credential_of(service, "admin"))
    admin.delete_task("j", "t")


def test_a_managed_identity(service: MillpondProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = environment_of(service, "reader")
    assert "AZURE_BATCH_ACCESS_KEY" not in environment
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.setenv(name, environment[name])
    credential = ManagedIdentityCredential(connection_verify=bundle_of(service))
    client = client_of(service, credential)
    assert isinstance([job.id for job in client.list_jobs()], list)
    with pytest.raises(HttpResponseError, match="create_job needs the role submitter"):
        client.create_job(m.BatchJobCreateOptions(id="x", pool_info=m.BatchPoolInfo(pool_id="p")))


def test_a_wrong_secret(service: MillpondProcess) -> None:
    credential = credential_of(service, "admin", AZURE_CLIENT_SECRET="guess")
    with pytest.raises(ClientAuthenticationError, match="no such client id, or not its secret"):
        credential.get_token("https://batch.core.windows.net/.default")


def test_a_token_for_another_audience(service: MillpondProcess) -> None:
    token = credential_of(service, "admin").get_token("https://management.azure.com/.default").token
    assert _status(service, token) == (401, "another audience")


def test_a_made_up_token(service: MillpondProcess) -> None:
    assert _status(service, "ey.made.up")[0] == 401
    assert _status(service, "something")[0] == 401


def _status(service: MillpondProcess, token: str) -> tuple[int, str]:
    url = f"{service.endpoint}/jobs?api-version=2025-06-01"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=bundle_of(service)))
    with refused.value as answer:
        text = answer.read().decode()
        return answer.code, "another audience" if "another audience" in text else text


def test_the_shell_forgets_the_key_that_would_be_used_first(service: MillpondProcess) -> None:
    assert "millpond env --entra reader|submitter|operator|admin" in service.log()
    command = f'eval "$({sys.executable} -m millpond env --entra reader --data-dir {service.data_dir})" && env'
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "AZURE_BATCH_ACCESS_KEY": "of an earlier eval"},
        check=True,
    )
    assert "AZURE_CLIENT_SECRET=" in done.stdout
    assert "AZURE_BATCH_ACCESS_KEY" not in done.stdout


def test_a_service_without_an_issuer_says_so(new_service: ServiceFactory) -> None:
    plain = new_service("data").start()
    done = subprocess.run(
        [sys.executable, "-m", "millpond", "env", "--entra", "admin", "--data-dir", str(plain.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(REPOSITORY / "src")},
        check=False,
    )
    assert done.returncode == 1
    assert "start it with millpond up --tls --development-issuer" in done.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{plain.endpoint}/MSI/token", timeout=10)


def test_modes_that_the_account_does_not_take(new_service: ServiceFactory) -> None:
    service = new_service("data", environment={"MILLPOND_AUTH_MODES": "AAD"}).start()
    client = BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))
    with pytest.raises(HttpResponseError, match="The account does not take SharedKey; it takes AAD"):
        list(client.list_pools())


def test_the_signing_key_is_private_and_kept(service: MillpondProcess) -> None:
    path = Path(service.data_dir) / "sign-in-key.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    key, before = path.read_bytes(), environment_of(service, "reader")
    service.stop()
    service.start()
    after = environment_of(service, "reader")
    assert path.read_bytes() == key
    assert before["AZURE_CLIENT_ID"] == after["AZURE_CLIENT_ID"]
    assert before["AZURE_CLIENT_SECRET"] == after["AZURE_CLIENT_SECRET"]
    assert list(client_of(service, credential_of(service, "reader")).list_job_schedules()) == []
