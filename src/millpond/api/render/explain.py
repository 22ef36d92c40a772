"""The wire form of explanations (our own, in the style of the service's)."""

from typing import Any

from millpond.api.render.common import timestamp_text
from millpond.domain.explanation import Cause, Explanation, Reference


def explanation_object(explanation: Explanation) -> dict[str, Any]:
    return {
        "subject": _reference_object(explanation.subject),
        "state": explanation.state,
        "stateTransitionTime": timestamp_text(explanation.since),
        "summary": explanation.summary,
        "never": explanation.never,
        "causes": [_cause_object(cause) for cause in explanation.causes],
    }


def _cause_object(cause: Cause) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": cause.code, "message": cause.message, "never": cause.never}
    if cause.unblock:
        shown["unblock"] = cause.unblock
    if cause.since is not None:
        shown["since"] = timestamp_text(cause.since)
    if cause.references:
        shown["references"] = [_reference_object(reference) for reference in cause.references]
    if cause.causes:
        shown["causes"] = [_cause_object(behind) for behind in cause.causes]
    return shown


def _reference_object(reference: Reference) -> dict[str, str]:
    if reference.kind == "task":
        return {"kind": reference.kind, "jobId": reference.job_id, "id": reference.id}
    return {"kind": reference.kind, "id": reference.id}
