"""Tokens → the tree of a formula.

    formula    := statement {";" statement} [";"]
    statement  := name "=" expression | expression
    expression := chain {"?" expression ":" chain} …        a ternary groups from the right
    chain      := operand {operator operand}                by level: || && (== !=) (< <= > >=) (+ -) (* /)
    operand    := {"-" | "!"} primary {"." name ["(" arguments ")"]}
    primary    := number | string | name | name "(" arguments ")" | "(" expression ")"

What can never be right is refused here as well, with its place: unknown functions and methods, a wrong number of
arguments, an assignment to what is read-only. A variable that has no value is found when the formula runs, as the
service does it. Nesting is bounded, and with it the depth of every call that walks the tree.
"""

import difflib
import math
from typing import Final

from millpond.autoscale.errors import FormulaSyntaxError
from millpond.autoscale.lexer import Token, tokens_of
from millpond.autoscale.signatures import FUNCTIONS, MEMBER_NAMES, METHODS, Signature
from millpond.autoscale.tree import (
    LEVELS,
    Branch,
    Call,
    Chain,
    Choice,
    Constant,
    Expression,
    Formula,
    Member,
    Method,
    Number,
    Operation,
    Service,
    Statement,
    Text,
    Unary,
    Variable,
    line_starts,
    position,
)
from millpond.autoscale.values import MEMBERS
from millpond.autoscale.variables import CONSTANTS, SPELLINGS

MAX_STATEMENTS: Final = 100
MAX_DEPTH: Final = 64
"""Parentheses, arguments, signs and first branches inside each other."""
MAX_HEIGHT: Final = 128
"""Of a tree: with every level of operators counted that the parentheses hold."""


def parse(text: str) -> Formula:
    """The tree of a formula. Raises FormulaSyntaxError and FormulaTooLong."""
    return _Parser(text).formula()


class _Open:
    """A chain whose last operand is still being read."""

    __slots__ = ("at", "first", "height", "level", "operator", "rest", "start")

    def __init__(self, level: int, first: Expression, start: int, height: int) -> None:
        self.level = level
        self.first = first
        self.start = start
        self.height = height
        """Of its tallest operand."""
        self.rest: list[Operation] = []
        self.operator = ""
        self.at = 0

    def take(self, operand: Expression, height: int) -> None:
        """The operand is complete."""
        self.rest.append(Operation(self.at, self.operator, operand))
        self.height = max(self.height, height)


class _Parser:
    """One token ahead. Methods that return a node leave its height in `_height`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._index = 0
        self._token = self._tokens[0]
        self._end = 0
        """Where the token before the current one ends."""
        self._depth = 0
        self._height = 0

    def formula(self) -> Formula:
        if not self._token.kind:
            raise self._error("The formula is empty.")
        statements: list[Statement] = []
        while self._token.kind:
            if len(statements) == MAX_STATEMENTS:
                raise self._error(f"The formula has more than {MAX_STATEMENTS} statements.")
            statements.append(self._statement())
            if self._token.kind:
                self._take_end()
        return Formula(self._text, tuple(statements), line_starts(self._text))

    def _error(self, detail: str, offset: int | None = None) -> FormulaSyntaxError:
        return FormulaSyntaxError(detail, *position(self._text, self._token.start if offset is None else offset))

    def _found(self) -> str:
        return f"found {self._token.text[:64]!r}" if self._token.kind else "found the end of the formula"

    def _advance(self) -> Token:
        taken = self._token
        self._end = taken.start + len(taken.text)
        self._index += 1
        self._token = self._tokens[self._index]
        return taken

    def _take(self, mark: str, where: str) -> None:
        if self._token.text != mark or self._token.kind != "mark":
            raise self._error(f"Expected {mark!r} {where}, {self._found()}.")
        self._advance()

    def _take_end(self) -> None:
        """The semicolon after a statement."""
        token = self._token
        if token.kind == "mark" and token.text == ";":
            self._advance()
            return
        if token.kind == "mark" and token.text == "=":
            raise self._error("Only a variable at the beginning of a statement is assigned to; compare with '=='.")
        if token.kind == "mark" and token.text == ")":
            raise self._error("There is no '(' to this ')'.")
        raise self._error(f"Expected ';' or an operator after the statement, {self._found()}.")

    def _statement(self) -> Statement:
        first = self._token
        if first.kind == "name":
            following = self._tokens[self._index + 1]
            if following.kind == "mark" and following.text == "=":
                target = self._assigned()
                self._advance()
                value = self._expression()
                return Statement(first.start, self._end, target, value)
        elif first.kind == "mark" and first.text == ";":
            raise self._error("Expected a statement, found ';'.")
        value = self._expression()
        return Statement(first.start, self._end, None, value)

    def _assigned(self) -> Service | Variable:
        token = self._token
        target = self._name(self._advance())
        if isinstance(target, Constant) or (isinstance(target, Service) and target.variable.read_only):
            raise self._error(f"{target.name} is read-only.", token.start)
        return target

    def _enter(self, offset: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"The formula is nested deeper than {MAX_DEPTH} levels.", offset)

    def _rise(self, height: int, offset: int) -> None:
        if height > MAX_HEIGHT:
            raise self._error(f"The expression is nested deeper than {MAX_HEIGHT} operators.", offset)
        self._height = height

    def _expression(self) -> Expression:
        start = self._token.start
        node = self._chain()
        if self._token.text != "?":
            return node
        height = self._height
        branches: list[Branch] = []
        while self._token.text == "?":
            question = self._advance()
            self._enter(question.start)
            value = self._expression()
            self._depth -= 1
            height = max(height, self._height)
            self._take(":", "and what holds otherwise, after '?'")
            branches.append(Branch(node, value))
            node = self._chain()
            height = max(height, self._height)
        self._rise(height + 1, start)
        return Choice(start, self._end, tuple(branches), node)

    def _chain(self) -> Expression:
        """Operands and operators between ternaries; open chains wait on a stack, the tightest on top."""
        start = self._token.start
        operand = self._operand()
        level = self._operator_level()
        if not level:
            return operand
        height = self._height
        waiting: list[_Open] = []
        while True:
            while waiting and waiting[-1].level > level:
                chain = waiting.pop()
                chain.take(operand, height)
                start, height = chain.start, chain.height + 1
                self._rise(height, start)
                operand = Chain(start, self._end, chain.first, tuple(chain.rest))
            if not level:
                return operand
            if waiting and waiting[-1].level == level:
                chain = waiting[-1]
                chain.take(operand, height)
            else:
                chain = _Open(level, operand, start, height)
                waiting.append(chain)
            token = self._advance()
            chain.operator, chain.at = token.text, token.start
            start = self._token.start
            operand = self._operand()
            height = self._height
            level = self._operator_level()

    def _operator_level(self) -> int:
        return LEVELS.get(self._token.text, 0) if self._token.kind == "mark" else 0

    def _operand(self) -> Expression:
        token = self._token
        if token.kind == "mark" and token.text in {"-", "!"}:
            self._enter(token.start)
            self._advance()
            operand = self._operand()
            self._depth -= 1
            self._rise(self._height + 1, token.start)
            return Unary(token.start, self._end, token.text, operand)
        node = self._primary()
        while self._token.text == "." and self._token.kind == "mark":
            self._advance()
            node = self._postfix(node, token.start)
        return node

    def _primary(self) -> Expression:
        token = self._token
        self._height = 1
        if token.kind == "name":
            self._advance()
            if self._token.text == "(" and self._token.kind == "mark":
                return self._call(token)
            return self._name(token)
        if token.kind == "number":
            value = float(token.text)
            if math.isinf(value):
                raise self._error(f"The number {token.text[:64]} is too large.")
            self._advance()
            return Number(token.start, self._end, value)
        if token.kind == "string":
            self._advance()
            return Text(token.start, self._end, token.text[1:-1])
        if token.text == "(":
            self._enter(token.start)
            self._advance()
            node = self._expression()
            self._take(")", "to close the '(' at " + self._place(token.start))
            self._depth -= 1
            return node
        raise self._error(f"Expected a value, {self._found()}.{_hint(token.text)}")

    def _place(self, offset: int) -> str:
        line, column = position(self._text, offset)
        return f"line {line}, column {column}"

    def _name(self, token: Token) -> Constant | Service | Variable:
        lower = token.text.lower()
        end = token.start + len(token.text)
        if service := SPELLINGS.get(lower):
            return Service(token.start, end, *service)
        if constant := CONSTANTS.get(lower):
            return Constant(token.start, end, *constant)
        return Variable(token.start, end, token.text)

    def _arguments(self, signature: Signature, start: int) -> tuple[Expression, ...]:
        """What stands between parentheses, the opening one being the current token."""
        opening = self._token
        self._enter(opening.start)
        self._advance()
        arguments: list[Expression] = []
        height = 0
        if self._token.text != ")" or self._token.kind != "mark":
            arguments.append(self._expression())
            height = self._height
            while self._token.text == "," and self._token.kind == "mark":
                self._advance()
                arguments.append(self._expression())
                height = max(height, self._height)
        self._take(")", "to close the '(' at " + self._place(opening.start))
        self._depth -= 1
        if not signature.least <= len(arguments) <= signature.most:
            raise self._error(f"{signature.complaint}, here with {len(arguments) or 'no'} arguments.", start)
        self._rise(height + 1, start)
        return tuple(arguments)

    def _call(self, name: Token) -> Call:
        signature = FUNCTIONS.get(name.text.lower())
        if signature is None:
            raise self._error(f"There is no function {name.text[:64]!r}.{_hint(name.text, *FUNCTIONS)}", name.start)
        arguments = self._arguments(signature, name.start)
        return Call(name.start, self._end, signature.name, arguments)

    def _postfix(self, target: Expression, start: int) -> Member | Method:
        name = self._token
        if name.kind != "name":
            raise self._error(f"Expected a name after '.', {self._found()}.")
        height = self._height + 1
        self._advance()
        lower = name.text.lower()
        called = self._token.text == "(" and self._token.kind == "mark"
        if called:
            signature = METHODS.get(lower)
            if signature is None:
                raise self._error(f"There is no method {name.text[:64]!r}.{_hint(name.text, *METHODS)}", name.start)
            if not isinstance(target, (Service, Variable)) or (
                isinstance(target, Service) and target.variable.metric is None
            ):
                raise self._error(f"{signature.name} is a method of sampled variables such as $RunningTasks.", start)
            arguments = self._arguments(signature, name.start)
            return Method(start, self._end, target, signature.name, arguments)
        if lower in METHODS:
            raise self._error(f"Expected '(' after {METHODS[lower].name}, {self._found()}.")
        if lower not in MEMBER_NAMES:
            raise self._error(f"There is no member {name.text[:64]!r}.{_hint(name.text, *MEMBERS)}", name.start)
        self._rise(height, start)
        return Member(start, self._end, target, lower)


def _hint(word: str, *known: str) -> str:
    """What may have been meant."""
    if word.lower() in {"if", "else", "for", "while"}:
        return " There are no statements but assignments; choose with 'condition ? value : otherwise'."
    if word == "=":
        return " Compare with '=='; only a variable at the beginning of a statement is assigned to."
    close = difflib.get_close_matches(word[:64].lower(), known, 1)
    names = FUNCTIONS | METHODS
    return f" Is {names[close[0]].name if close[0] in names else close[0]!r} meant?" if close else ""
