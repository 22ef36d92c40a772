"""Loopback and the proxies of the environment."""

import os
import urllib.request

import pytest

from millpond.cli.proxies import spare_loopback

LOOPBACK = "localhost,127.0.0.1,::1"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, LOOPBACK),
        ({"NO_PROXY": "a.example, .b.example"}, f"a.example,.b.example,{LOOPBACK}"),
        ({"no_proxy": "127.0.0.1,a", "NO_PROXY": "not read"}, "127.0.0.1,a,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_what_is_on_this_machine_is_reached_without(name: str, before: dict[str, str], after: str) -> None:
    environment = {name: "http://proxy:3128", **before}
    spare_loopback(environment)
    assert environment == {name: "http://proxy:3128", "no_proxy": after, "NO_PROXY": after}
    again = dict(environment)
    spare_loopback(again)
    assert again == environment


@pytest.mark.parametrize("environment", [{}, {"http_proxy": ""}, {"NO_PROXY": "a"}])
def test_where_there_is_no_proxy_nothing_is_said(environment: dict[str, str]) -> None:
    before = dict(environment)
    spare_loopback(environment)
    assert environment == before


def test_python_understands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HTTP_PROXY": "http://proxy:3128"})
    assert not urllib.request.proxy_bypass("127.0.0.1:8080")
    spare_loopback(os.environ)
    for host in ("127.0.0.1:8080", "127.0.0.1", "localhost:1"):
        assert urllib.request.proxy_bypass(host), host
    assert not urllib.request.proxy_bypass("a.example")
