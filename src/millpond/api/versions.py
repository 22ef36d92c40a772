"""The api-versions of the data plane that are accepted."""

from typing import Final

API_VERSIONS: Final = (
    "2026-10-01",
    "2025-06-01",
    "2024-07-01.20.0",
    "2024-02-01.19.0",
    "2023-11-01.18.0",
    "2023-05-01.17.0",
    "2022-10-01.16.0",
    "2022-01-01.15.0",
    "2021-06-01.14.0",
    "2020-09-01.12.0",
    "2020-03-01.11.0",
)
"""Newest first. Properties of all of them are known; an answer does not depend on the version asked for."""
