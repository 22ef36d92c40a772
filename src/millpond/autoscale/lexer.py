"""Formula text → tokens.

    name    := ["$"] (letter | "_") {letter | digit | "_"}
    number  := digits ["." {digit}] [exponent] | "." digits [exponent]
    string  := '"' … '"' | "'" … "'"       on one line, no escapes
    comment := "//" to the end of the line

Letters and digits are ASCII. Nothing here backtracks, so the time is linear in the length, which is bounded.
"""

import re
from typing import Final, NamedTuple

from millpond.autoscale.errors import FormulaSyntaxError, FormulaTooLong
from millpond.autoscale.tree import position

MAX_CHARACTERS: Final = 8192

_TOKEN: Final = re.compile(
    r"""
    (?P<space>(?:[ \t\r\n\f\v\ufeff\u00a0]++|//[^\r\n]*+)++)
    | (?P<name>\$?[A-Za-z_][A-Za-z0-9_]*+)
    | (?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)
    | (?P<string>"[^"\r\n]*+"|'[^'\r\n]*+')
    | (?P<mark>&&|\|\||[=!<>]=|[-+*/<>!?:=;,.()])
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    kind: str
    """`name`, `number`, `string`, `mark`, or empty at the end."""
    text: str
    start: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a formula, blanks and comments left out, one of kind `""` at the end.

    Raises FormulaTooLong, and FormulaSyntaxError where no token begins.
    """
    if len(text) > MAX_CHARACTERS:
        raise FormulaTooLong(
            f"The formula has {len(text)} characters; at most {MAX_CHARACTERS} are allowed.",
            *position(text, MAX_CHARACTERS),
        )
    tokens: list[Token] = []
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        if match is None:
            raise FormulaSyntaxError(_complaint(text, offset), *position(text, offset))
        kind = match.lastgroup or ""
        if kind != "space":
            found = match[0]
            if kind == "string" and not found.isprintable():
                raise FormulaSyntaxError("A string holds a character that cannot be printed.", *position(text, offset))
            tokens.append(Token(kind, found, offset))
        offset = match.end()
    tokens.append(Token("", "", offset))
    return tokens


def _complaint(text: str, offset: int) -> str:
    character = text[offset]
    match character:
        case '"' | "'":
            return "A string is not closed on its line."
        case "&" | "|":
            return f"{character!r} is no operator; the logical ones are '&&' and '||'."
        case "%":
            return "'%' is no operator; the language has no remainder."
        case "{" | "}" | "[" | "]":
            return f"{character!r} is not used in formulas; group with parentheses."
        case "#":
            return "'#' is not used in formulas; a comment begins with '//'."
        case "$":
            return "'$' is followed by a name."
    return f"The character {character!a} is not used in formulas."
