"""VM sizes and providers by name."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from millpond.domain.errors import ProviderError
from millpond.providers import registry
from millpond.providers.base import VmSize
from millpond.providers.catalogue import CATALOGUE, catalogue, describe, this_machine
from millpond.providers.local import LocalProvider
from millpond.providers.registry import ProviderContext, find_provider, provider_names

LAPTOP = VmSize("local", 2, 8192, 0.0)


def test_common_sizes_are_there_by_lower_case_name() -> None:
    assert CATALOGUE["standard_d2s_v3"] == VmSize("Standard_D2s_v3", 2, 8192, 0.096)
    assert CATALOGUE["standard_a1_v2"].memory_mib == 2048
    assert CATALOGUE["standard_d1_v2"].memory_mib == 3584
    assert CATALOGUE["standard_f72s_v2"].cores == 72
    assert all(name == size.name.lower() for name, size in CATALOGUE.items())
    assert all(size.cores > 0 and size.memory_mib >= 1024 for size in CATALOGUE.values())


def test_local_is_this_machine() -> None:
    assert CATALOGUE["local"] == this_machine()
    assert this_machine().cores >= 1
    assert this_machine().memory_mib > 100


def test_configuration_changes_and_adds() -> None:
    own = VmSize("Big", 256, 1 << 20, 9.0)
    sizes = catalogue({"Big": own, "STANDARD_A1_V2": own}, machine=LAPTOP)
    assert sizes["big"] is own
    assert sizes["standard_a1_v2"] is own
    assert sizes["local"] is LAPTOP


def test_a_description_says_what_there_is() -> None:
    big = describe(CATALOGUE["standard_d64s_v3"], LAPTOP)
    assert big == (
        "Standard_D64s_v3: 64 cores, 256.0 GiB of memory by its name, but on a machine with 2 cores, 8.0 GiB of memory,"
        " shared with its other nodes"
    )
    small = describe(CATALOGUE["standard_a1_v2"], LAPTOP)
    assert small.startswith("Standard_A1_v2: 1 core, 2.0 GiB of memory, on a machine with 2 cores")
    assert describe(LAPTOP, LAPTOP) == "local: 2 cores, 8.0 GiB of memory"


def test_a_provider_is_found_by_name(tmp_path: Path) -> None:
    assert "local" in provider_names()
    provider = find_provider("local")(ProviderContext(directory=str(tmp_path), endpoint="http://127.0.0.1:1"))
    assert isinstance(provider, LocalProvider)


def test_an_unknown_provider_is_told_with_those_there_are() -> None:
    with pytest.raises(ProviderError, match=r"no node provider 'slrm'; there are: .*local"):
        find_provider("slrm")


def test_an_installed_package_adds_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    good = EntryPoint("mine", "millpond.providers.local:make_provider", registry.GROUP)
    bad = EntryPoint("bad", "millpond.providers.nothing:at_all", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [good, bad])
    assert provider_names() == ["bad", "local", "mine"]
    assert find_provider("mine") is find_provider("local")
    with pytest.raises(ProviderError, match="cannot be loaded") as error:
        find_provider("bad")
    assert not error.value.retryable
