"""What is wrong with a formula, and where.

A formula that cannot be read is refused when it is given (`FormulaSyntaxError`, `FormulaTooLong`: HTTP 400). One that
fails when it runs leaves the pool as it is and tells so in the pool's last run (`EvaluationFailed`,
`InsufficientSamples`). Lines and columns count from 1, columns in characters.
"""

from enum import StrEnum
from typing import ClassVar

from millpond.domain.errors import BatchError, ErrorCode


class FormulaErrorCode(StrEnum):
    """Azure Batch's codes; the first two answer requests, the others stand in `autoScaleRun.error`."""

    SYNTAX_ERROR = "AutoScalingFormulaSyntaxError"
    TOO_LONG = "AutoScaleFormulaTooLong"
    EVALUATION_ERROR = "AutoScalingFormulaEvaluationError"
    INSUFFICIENT_SAMPLE_DATA = "InsufficientSampleData"


class FormulaError(Exception):
    """An error of the formula language; the language raises no other.

    `message` is the general sentence of the code, as the service has it; `detail` says what exactly is wrong.
    """

    code: ClassVar[FormulaErrorCode]
    message: ClassVar[str]

    def __init__(self, detail: str, line: int, column: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line
        self.column = column

    @property
    def located(self) -> str:
        """`Line 15, Col 44: …`: the value named `Message` among the error's values."""
        return f"Line {self.line}, Col {self.column}: {self.detail}"

    def __str__(self) -> str:
        return f"{self.code.value}: {self.located}"


class FormulaSyntaxError(FormulaError):
    """Not in the grammar, or a name, a number of arguments or an assignment that can never be right."""

    code = FormulaErrorCode.SYNTAX_ERROR
    message = "The autoscale formula has a syntax error."


class FormulaTooLong(FormulaError):
    """More characters than a formula may have."""

    code = FormulaErrorCode.TOO_LONG
    message = "The autoscale formula is too long."


class EvaluationFailed(FormulaError):
    """A variable without a value, types that do not go together, a division by zero, a result out of range …"""

    code = FormulaErrorCode.EVALUATION_ERROR
    message = "An error occurred while evaluating the autoscale formula."


class InsufficientSamples(FormulaError):
    """Fewer samples than the formula asks for."""

    code = FormulaErrorCode.INSUFFICIENT_SAMPLE_DATA
    message = "Autoscale evaluation failed due to insufficient sample data"


def refusal(error: FormulaSyntaxError | FormulaTooLong) -> BatchError:
    """The answer to a request that brings a formula which cannot be read."""
    return BatchError(ErrorCode(error.code.value), f"{error.message} {error.located}", Message=error.located)
