"""Errors in Resource Manager's form: the only place of this room where they become JSON."""

from typing import Any

import msgspec

from millpond.domain.errors import BatchError


class ArmError(Exception):
    """An error that only the management plane has: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def no_group(name: str) -> ArmError:
    """404 for a resource group that was not made."""
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{name[:90]}' could not be found.")


def error_body(error: ArmError | BatchError, request_id: str) -> bytes:
    body: dict[str, Any] = {"code": str(error.code), "message": f"{error.message}\nRequestId:{request_id}"}
    if isinstance(error, BatchError):
        body["target"] = "BatchAccount"
        if error.values:
            body["details"] = [{"code": name, "message": value} for name, value in error.values.items()]
    return msgspec.json.encode({"error": body})
