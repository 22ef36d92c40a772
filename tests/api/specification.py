"""The derived specification of the data plane, when it lies beside the checkout: what is in it, and whether an answer
is what it says."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from millpond.domain.durations import parse_duration

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
VERSIONS = ("2025-06-01", "2024-02-01.19.0")

EXTENSIONS = frozenset({"odata.metadata", "authenticationTokenSettings"})
"""Properties that answers may have beyond the specification: the service's own metadata, and what we keep of older
versions."""

WRITE_ONLY = frozenset({"accountKey", "password", "protectedSettings", "sasKey", "sshPrivateKey"})
"""Secrets: sent, never shown."""

NOT_YET_KNOWN = frozenset({"ipAddress", "ipv6Address", "lastBootTime"})
"""Required of a node, but one that never booted has none, and few nodes have addresses of both kinds: left out rather
than made up."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z\Z")

Json = dict[str, Any]


class Specification:
    def __init__(self, version: str, document: Json) -> None:
        self.version = version
        self.paths: dict[str, dict[str, Json]] = document["paths"]
        self.definitions: dict[str, Json] = document["definitions"]

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        """(method, path, facts)"""
        for path, methods in self.paths.items():
            for method, facts in methods.items():
                yield method.upper(), path, facts

    def facts(self, method: str, path: str) -> Json | None:
        return self.paths.get(path, {}).get(method.lower())

    def resolve(self, schema: Json) -> Json:
        """The schema behind a reference; what stands beside the reference is not lost."""
        while "$ref" in schema:
            schema = {
                **self.definitions[schema["$ref"].rpartition("/")[2]],
                **{key: value for key, value in schema.items() if key in ("x-ms-mutability", "x-format")},
            }
        return schema

    def body_schema(self, facts: Json) -> Json | None:
        return next((one["schema"] for one in facts["parameters"] if one["in"] == "body"), None)

    def problems(self, schema: Json, value: Any, at: str = "$") -> Iterator[str]:
        """Where a value is not what the schema says: wrong type, unknown word of an enumeration, a required property
        that is missing, one that does not exist."""
        schema = self.resolve(schema)
        if value is None:
            yield f"{at}: null"
            return
        words = schema.get("enum")
        if words is not None and self._spelled(value) not in map(self._spelled, words):
            yield f"{at}: {value!r} is not one of {words}"
            return
        kind = schema.get("type", "object")
        if schema.get("x-format") == "str":
            if not isinstance(value, str) or not re.fullmatch(r"-?\d+", value):
                yield f"{at}: {value!r} is not a whole number in a string"
        elif kind == "object":
            if not isinstance(value, dict):
                yield f"{at}: {value!r} is no object"
                return
            yield from self._object_problems(schema, value, at)
        elif kind == "array":
            if not isinstance(value, list):
                yield f"{at}: {value!r} is no list"
                return
            for index, item in enumerate(value):
                yield from self.problems(schema.get("items", {}), item, f"{at}[{index}]")
        elif kind == "string":
            yield from _string_problems(schema, value, at)
        elif kind == "integer":
            if self.version != VERSIONS[0] and isinstance(value, str) and value.isdecimal():
                return  # a long one; the derived specification of an older version does not say which are sent so
            if not isinstance(value, int) or isinstance(value, bool):
                yield f"{at}: {value!r} is no integer"
        elif kind == "number":
            if not isinstance(value, int | float) or isinstance(value, bool):
                yield f"{at}: {value!r} is no number"
        elif kind == "boolean":
            if not isinstance(value, bool):
                yield f"{at}: {value!r} is no boolean"
        else:
            yield f"{at}: unknown kind {kind!r} in the specification"

    def _spelled(self, word: Any) -> Any:
        """Clients of the newest version compare words as they are spelled, older ones do not care for the case."""
        return word if self.version == VERSIONS[0] else str(word).lower()

    def _object_problems(self, schema: Json, value: Json, at: str) -> Iterator[str]:
        properties = schema.get("properties")
        if properties is None:
            return  # free-form
        for name in schema.get("required", ()):
            if name not in value and name not in WRITE_ONLY | NOT_YET_KNOWN:
                yield f"{at}.{name}: missing"
        more = schema.get("additionalProperties")
        for name, inner in value.items():
            if name in properties:
                yield from self.problems(properties[name], inner, f"{at}.{name}")
            elif isinstance(more, dict):
                yield from self.problems(more, inner, f"{at}.{name}")
            elif not more and name not in EXTENSIONS:
                yield f"{at}.{name}: no such property in {self.version}"


def _string_problems(schema: Json, value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{at}: {value!r} is no string"
        return
    form = schema.get("format")
    try:
        if form == "date-time":
            if _TIME.match(value) is None:
                yield f"{at}: {value!r} is no date-time"
            datetime.fromisoformat(value)
        elif form == "duration":
            parse_duration(value)
    except ValueError as error:
        yield f"{at}: {error}"


@cache
def specification(version: str) -> Specification | None:
    """The specification of a version, or None when it is not at hand."""
    file = REFERENCE / f"BatchService-{version}.derived.json"
    if not file.exists():
        return None
    return Specification(version, json.loads(file.read_text()))


NOT_AT_HAND: Final = "does not apply here: the specification is not at hand"


def at_hand(version: str) -> Specification:
    """The specification of a version; a test that asks for it where it is not at hand is left out."""
    found = specification(version)
    if found is None:
        pytest.skip(NOT_AT_HAND)
    return found


def or_left_out(cases: list[Any], width: int) -> list[Any]:
    """Cases with `width` values each, taken from the specifications; one that is left out where there are none."""
    return cases or [pytest.param(*[None] * width, marks=pytest.mark.skip(NOT_AT_HAND))]
