"""Certificates, which versions up to 2024-07-01.20.0 have: there are none, and none can be added. Azure Batch took them
out of service in February 2024."""

from typing import Final, NoReturn

from millpond.api.context import Context
from millpond.api.decode import drain
from millpond.api.http import Request, Response
from millpond.api.options import filter_of, select_of
from millpond.api.paging import page_of, page_size, page_start
from millpond.api.render.common import words
from millpond.api.replies import encode_json, json_reply, not_found
from millpond.domain.errors import BatchError, ErrorCode
from millpond.odata import properties

PROPERTIES = words(
    "thumbprint thumbprintAlgorithm url state stateTransitionTime previousState previousStateTransitionTime publicData "
    "deleteCertificateError"
)
_MAX_RESULTS: Final = 100
"""Of certificates a page has no more."""


async def create_certificate(context: Context, request: Request) -> Response:
    await drain(request)
    raise BatchError(
        ErrorCode.NOT_IMPLEMENTED,
        "Certificates were withdrawn by Azure Batch and are not supported: give tasks their secrets as resource files.",
        Operation=request.operation.name,
    )


async def list_certificates(context: Context, request: Request) -> Response:
    select_of(request, PROPERTIES)
    filter_of(request, properties.CERTIFICATES)
    page_size(request, _MAX_RESULTS)
    page_start(request)
    return json_reply(request, encode_json(page_of(request, "certificates", [], None)))


async def get_certificate(context: Context, request: Request) -> Response:
    select_of(request, PROPERTIES)
    _none(request)


async def delete_certificate(context: Context, request: Request) -> Response:
    await drain(request)
    _none(request)


async def cancel_certificate_deletion(context: Context, request: Request) -> Response:
    await drain(request)
    _none(request)


def _none(request: Request) -> NoReturn:
    raise not_found(ErrorCode.CERTIFICATE_NOT_FOUND, "certificate", request.params["thumbprint"])
