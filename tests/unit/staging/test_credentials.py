"""Which URLs need the operator's credentials, and the library that signs with them."""

import subprocess
import sys

from millpond.staging.credentials import credentials_for, needs_client

GIVEN = {"https://h/c": {"is": "c"}, "https://h/c/deep": {"is": "deep"}, "s3://b": {"is": "b"}}


def test_credentials_are_of_whole_names_and_the_longest_fits() -> None:
    for url, found in (
        ("https://h/c", "c"),
        ("https://h/c/a", "c"),
        ("https://h/c?comp=list", "c"),
        ("https://h/c/deep/a", "deep"),
        ("s3://b/a", "b"),
        ("https://h/cc", None),
        ("s3://bb", None),
    ):
        assert (credentials_for(url, GIVEN) or {}).get("is") == found, url


def test_a_scheme_that_only_the_client_speaks_needs_it_without_credentials_too() -> None:
    assert needs_client("https://h/c/a", GIVEN)
    assert needs_client("gs://other/a", GIVEN)
    assert not needs_client("https://h/other", GIVEN)


def test_the_client_is_loaded_when_it_is_needed() -> None:
    code = (
        "import sys, millpond.app, millpond.agent.main\n"
        "from millpond.staging.router import StagingRouter\n"
        "router = StagingRouter()\n"
        "assert 'obstore' not in sys.modules\n"
        "router.file_url('s3://bucket', 'a')\n"
        "assert 'obstore' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
