"""`$filter` text → tree.

    filter     := all { "or" all }
    all        := test { "and" test }
    test       := "(" filter ")" | "startswith" "(" path "," string ")" | path operator literal
    path       := name { "/" name }
    literal    := 'string, a quote doubled' | integer | true | false | null | DateTime'…' | 2026-01-31T12:00:00Z

There is no `not`: the service documents none. Words are case-sensitive but for the prefix of date-times, and for AND and
OR, which the documentation writes so. A date-time may stand bare, as later OData has it. `null` goes with `eq` and `ne`.
Length, nesting and number of tests are bounded, so no filter takes more than a moment to parse, evaluate, or run as SQL.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from millpond.odata.errors import FilterError
from millpond.odata.filters import And, Comparison, Condition, Filter, Literal, Operator, Or, StartsWith
from millpond.odata.properties import Properties, Property, PropertyType

MAX_LENGTH: Final = 8192
"""Characters in a filter."""
MAX_DEPTH: Final = 32
"""Parentheses inside parentheses."""
MAX_TESTS: Final = 200
"""Comparisons and functions in a filter; well below the depth of expression a database takes."""
MAX_INTEGER: Final = 2**63 - 1

_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
    | (?P<time>[Dd][Aa][Tt][Ee][Tt][Ii][Mm][Ee]'(?:[^']++|'')*+')
    | (?P<string>'(?:[^']++|'')*+')
    | (?P<bare>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9:.]*+(?:[Zz]|[+-][0-9:]*+)?+)?+(?![\w.]))
    | (?P<integer>-?[0-9]++(?![\w.-]))
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z_][A-Za-z0-9_]*)*)
    | (?P<mark>[(),])
    """,
    re.VERBOSE,
)
_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):(\d\d))?)?\Z",
    re.ASCII,
)
_RFC1123: Final = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d?) ([A-Z][a-z][a-z]) (\d{4}) (\d\d):(\d\d):(\d\d) GMT\Z", re.ASCII
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OPERATORS: Final = {operator.value: operator for operator in Operator}
_RESERVED: Final = frozenset({*_OPERATORS, "and", "AND", "or", "OR", "not", "true", "false", "null"})


def parse_filter(text: str, properties: Properties) -> Filter:
    """The tree of a filter over entities with these properties. Raises FilterError."""
    if len(text) > MAX_LENGTH:
        raise FilterError(f"The filter is longer than {MAX_LENGTH} characters.", MAX_LENGTH)
    return Filter(text=text, condition=_Parser(text, properties).parse())


def parse_date_time(text: str) -> float:
    """Epoch seconds of a date-time in ISO 8601 form (a bare date is its midnight, no zone is UTC) or RFC 1123 form.

    Fractions are kept to the microsecond. Raises ValueError.
    """
    if match := _ISO.match(text):
        year, month, day, hour, minute, second, fraction, _, sign, zone_hours, zone_minutes = match.groups()
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=UTC,
        )
        east = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
        if east >= timedelta(days=1):
            raise ValueError(f"{text!r} has no valid time zone")
        since_epoch = (moment - _EPOCH) + (east if sign == "-" else -east)
    elif (match := _RFC1123.match(text)) and match[2] in _MONTHS:
        day, _, year, hour, minute, second = match.groups()
        month_number = _MONTHS.index(match[2]) + 1
        moment = datetime(int(year), month_number, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
        since_epoch = moment - _EPOCH
    else:
        raise ValueError(f"{text!r} is neither an ISO 8601 nor an RFC 1123 date-time")
    return since_epoch / timedelta(seconds=1)


class _Parser:
    """One token ahead, one method per rule of the grammar; the depth of calls is bounded by MAX_DEPTH."""

    def __init__(self, text: str, properties: Properties) -> None:
        self._text = text
        self._properties = properties
        self._tests = 0
        self._depth = 0
        self._end = 0
        self._kind = ""
        """Kind of the current token; empty at the end of the text."""
        self._found = ""
        self._position = 0
        self._advance()

    def parse(self) -> Condition:
        if not self._kind:
            raise self._error("The filter is empty.")
        condition = self._any()
        if self._kind:
            raise self._error(f"Expected 'and', 'or' or the end of the filter, found {self._found!r}.")
        return condition

    def _error(self, message: str, position: int | None = None) -> FilterError:
        return FilterError(message, self._position if position is None else position)

    def _advance(self) -> None:
        while True:
            self._position = self._end
            if self._end == len(self._text):
                self._kind = self._found = ""
                return
            match = _TOKEN.match(self._text, self._end)
            if match is None:
                rest = self._text[self._end : self._end + 16]
                if rest[0] == "'":
                    raise self._error("A string literal is not closed; a quote inside one is written twice.")
                raise self._error(f"Cannot read the filter at {rest!r}.")
            self._end = match.end()
            if match.lastgroup != "space":
                self._kind = match.lastgroup or ""
                self._found = match[0]
                return

    def _take_mark(self, mark: str) -> None:
        if self._kind != "mark" or self._found != mark:
            raise self._error(
                f"Expected {mark!r}, found {self._found!r}." if self._kind else f"Expected {mark!r} at the end."
            )
        self._advance()

    def _at_word(self, *words: str) -> bool:
        return self._kind == "word" and self._found in words

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._at_word("or", "OR"):
            self._advance()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._test()]
        while self._at_word("and", "AND"):
            self._advance()
            parts.append(self._test())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _test(self) -> Condition:
        if self._kind == "mark" and self._found == "(":
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise self._error(f"Parentheses are nested deeper than {MAX_DEPTH} levels.")
            self._advance()
            condition = self._any()
            self._take_mark(")")
            self._depth -= 1
            return condition
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise self._error(f"The filter has more than {MAX_TESTS} comparisons.")
        if self._at_word("not"):
            raise self._error("The operator 'not' is not supported; use 'ne'.")
        if self._kind != "word" or self._found in _RESERVED:
            raise self._error(
                f"Expected a property name, found {self._found!r}." if self._kind else "Expected a property name."
            )
        word, position = self._found, self._position
        self._advance()
        if self._kind == "mark" and self._found == "(":
            return self._function(word, position)
        return self._comparison(word, position)

    def _property(self, path: str, position: int) -> tuple[str, Property]:
        found = self._properties.get(path)
        if found is None:
            offered = ", ".join(sorted(self._properties))
            raise self._error(f"The property '{path[:128]}' cannot be filtered here; these can: {offered}.", position)
        return found.name or path, found

    def _function(self, name: str, position: int) -> Condition:
        if name != "startswith":
            raise self._error(f"The function '{name[:128]}' is not supported; 'startswith' is the only one.", position)
        self._advance()
        if self._kind != "word" or self._found in _RESERVED:
            raise self._error("Expected a property name as the first argument of 'startswith'.")
        path, described = self._property(self._found, self._position)
        if not described.starts_with:
            raise self._error(f"The property '{self._found}' cannot be used with 'startswith'.")
        self._advance()
        self._take_mark(",")
        if self._kind != "string":
            raise self._error("Expected a string as the second argument of 'startswith'.")
        prefix = self._string()
        self._advance()
        self._take_mark(")")
        return StartsWith(path, prefix)

    def _comparison(self, word: str, position: int) -> Condition:
        path, described = self._property(word, position)
        operator = _OPERATORS.get(self._found) if self._kind == "word" else None
        if operator is None:
            found = f", found {self._found[:128]!r}" if self._kind else ""
            raise self._error(f"Expected one of eq, ne, ge, gt, le, lt after '{word}'{found}.")
        if operator not in described.operators:
            offered = [one.value for one in Operator if one in described.operators]
            offered += ["startswith"] if described.starts_with else []
            raise self._error(
                f"The property '{word}' cannot be used with '{operator}', only with: {', '.join(offered)}."
            )
        self._advance()
        if self._at_word("null"):
            if operator not in (Operator.EQ, Operator.NE):
                raise self._error(f"Nothing is ordered against null: '{operator}' cannot be used with it.")
            self._advance()
            return Comparison(path, operator, None)
        value = self._literal(word, described.type)
        if described.words is not None and str(value).lower() not in described.words:
            raise self._error(
                f"{str(value)[:64]!r} is no value of '{word}', which is one of: {', '.join(sorted(described.words))}."
            )
        self._advance()
        return Comparison(path, operator, value)

    def _literal(self, word: str, wanted: PropertyType) -> Literal:
        if wanted is PropertyType.STRING and self._kind == "string":
            return self._string()
        if wanted is PropertyType.INTEGER and self._kind == "integer":
            # Digits are counted first: converting thousands of them takes time that grows with their square.
            if len(self._found) <= 20 and abs(value := int(self._found)) <= MAX_INTEGER:
                return value
            raise self._error(f"The integer compared with '{word}' is out of range.")
        if wanted is PropertyType.BOOLEAN and self._at_word("true", "false"):
            return self._found == "true"
        if wanted is PropertyType.DATE_TIME and self._kind in ("time", "bare"):
            inner = self._found if self._kind == "bare" else self._found[9:-1].replace("''", "'")
            try:
                return parse_date_time(inner)
            except ValueError:
                form = "2026-01-31T12:00:00Z or Sat, 31 Jan 2026 12:00:00 GMT"
                raise self._error(f"{inner[:64]!r} is not a date-time such as {form}.") from None
        found = f", found {self._found[:128]!r}" if self._kind else ""
        raise self._error(f"The property '{word}' is compared with {wanted.value}{found}.")

    def _string(self) -> str:
        value = self._found[1:-1].replace("''", "'")
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise self._error("A string literal holds a character that no text can hold.")
        return value
