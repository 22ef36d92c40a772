"""The catalogue of VM sizes: what a node of a size offers, and what it would cost.

Cores and memory are those Azure documents for the size; prices are list prices for Linux in one common region, rounded,
and serve only to give cost figures an order of magnitude. `config` may change or add sizes.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Final

from millpond.providers.base import VmSize

LOCAL_SIZE: Final = "local"
"""The size that is the machine Millpond runs on."""

_GIB: Final = 1024


def _size(name: str, cores: int, memory_gib: float, price_per_hour: float) -> VmSize:
    return VmSize(name=name, cores=cores, memory_mib=round(memory_gib * _GIB), price_per_hour=price_per_hour)


def _family(pattern: str, cores: Iterable[int], memory_gib_per_core: float, price_per_core: float) -> Iterable[VmSize]:
    """Sizes whose memory and price grow with their cores, named by them."""
    for count in cores:
        yield _size(pattern.format(count), count, count * memory_gib_per_core, round(count * price_per_core, 4))


def _built_in() -> Iterable[VmSize]:
    # A: entry level
    yield _size("Standard_A1_v2", 1, 2, 0.043)
    yield _size("Standard_A2_v2", 2, 4, 0.091)
    yield _size("Standard_A4_v2", 4, 8, 0.191)
    yield _size("Standard_A8_v2", 8, 16, 0.4)
    yield _size("Standard_A2m_v2", 2, 16, 0.119)
    yield _size("Standard_A4m_v2", 4, 32, 0.249)
    yield _size("Standard_A8m_v2", 8, 64, 0.524)
    # D, second generation
    for prefix in ("Standard_D", "Standard_DS"):
        yield _size(f"{prefix}1_v2", 1, 3.5, 0.073)
        yield _size(f"{prefix}2_v2", 2, 7, 0.146)
        yield _size(f"{prefix}3_v2", 4, 14, 0.293)
        yield _size(f"{prefix}4_v2", 8, 28, 0.585)
        yield _size(f"{prefix}5_v2", 16, 56, 1.17)
        yield _size(f"{prefix}11_v2", 2, 14, 0.185)
        yield _size(f"{prefix}12_v2", 4, 28, 0.37)
        yield _size(f"{prefix}13_v2", 8, 56, 0.741)
        yield _size(f"{prefix}14_v2", 16, 112, 1.482)
    # D: general purpose, 4 GiB a core
    for pattern in ("Standard_D{}_v3", "Standard_D{}s_v3", "Standard_D{}_v4", "Standard_D{}s_v4"):
        yield from _family(pattern, (2, 4, 8, 16, 32, 48, 64), 4, 0.048)
    for pattern in ("Standard_D{}_v5", "Standard_D{}s_v5", "Standard_D{}ds_v5", "Standard_D{}as_v5"):
        yield from _family(pattern, (2, 4, 8, 16, 32, 48, 64, 96), 4, 0.048)
    # E: memory, 8 GiB a core (less at the top)
    for pattern in ("Standard_E{}_v3", "Standard_E{}s_v3"):
        yield from _family(pattern, (2, 4, 8, 16, 20, 32, 48), 8, 0.063)
        yield _size(pattern.format(64), 64, 432, 3.629)
    for pattern in ("Standard_E{}_v4", "Standard_E{}s_v4", "Standard_E{}_v5", "Standard_E{}s_v5"):
        yield from _family(pattern, (2, 4, 8, 16, 20, 32, 48), 8, 0.063)
        yield _size(pattern.format(64), 64, 504 if "v4" in pattern else 512, 4.032)
    # F: compute, 2 GiB a core
    yield from _family("Standard_F{}s_v2", (2, 4, 8, 16, 32, 48, 64, 72), 2, 0.0423)
    # H: high-performance computing
    yield _size("Standard_H8", 8, 56, 0.796)
    yield _size("Standard_H16", 16, 112, 1.591)
    yield _size("Standard_H16r", 16, 112, 1.75)
    yield _size("Standard_HB60rs", 60, 228, 2.28)
    yield _size("Standard_HB120rs_v2", 120, 456, 3.6)
    yield _size("Standard_HB120rs_v3", 120, 448, 3.6)
    yield _size("Standard_HC44rs", 44, 352, 3.168)
    # NC: GPU
    yield _size("Standard_NC6", 6, 56, 0.9)
    yield _size("Standard_NC12", 12, 112, 1.8)
    yield _size("Standard_NC24", 24, 224, 3.6)
    yield _size("Standard_NC6s_v3", 6, 112, 3.06)
    yield _size("Standard_NC12s_v3", 12, 224, 6.12)
    yield _size("Standard_NC24s_v3", 24, 448, 12.24)
    yield _size("Standard_NC4as_T4_v3", 4, 28, 0.526)
    yield _size("Standard_NC8as_T4_v3", 8, 56, 0.752)
    yield _size("Standard_NC16as_T4_v3", 16, 110, 1.204)
    yield _size("Standard_NC64as_T4_v3", 64, 440, 4.352)
    yield _size("Standard_NC24ads_A100_v4", 24, 220, 3.673)


def this_machine() -> VmSize:
    """The machine this runs on, as size `local`: the cores this process may use, and the memory there is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return VmSize(name=LOCAL_SIZE, cores=cores, memory_mib=memory >> 20, price_per_hour=0.0)


def catalogue(changes: Mapping[str, VmSize] | None = None, *, machine: VmSize | None = None) -> dict[str, VmSize]:
    """All sizes by lower-case name: the built-in ones, the machine as `local`, and over them `changes` (by name, in any
    case)."""
    sizes = {size.name.lower(): size for size in _built_in()}
    sizes[LOCAL_SIZE] = machine or this_machine()
    for name, size in (changes or {}).items():
        sizes[name.lower()] = size
    return sizes


CATALOGUE: Final = catalogue()
"""All sizes there are unless configured otherwise, by lower-case name."""


def describe(size: VmSize, machine: VmSize) -> str:
    """What a node of the size on this machine is, in words: the size gives the name and the price, the machine what
    there is, whatever the size promises."""
    offers = f"{size.name}: {_amount(size)}"
    if size.name.lower() == LOCAL_SIZE:
        return offers
    here = f"on a machine with {_amount(machine)}, shared with its other nodes"
    if size.cores > machine.cores or size.memory_mib > machine.memory_mib:
        return f"{offers} by its name, but {here}"
    return f"{offers}, {here}"


def _amount(size: VmSize) -> str:
    cores = "1 core" if size.cores == 1 else f"{size.cores} cores"
    return f"{cores}, {size.memory_mib / _GIB:.1f} GiB of memory"
