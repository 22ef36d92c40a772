"""Applications as pools and tasks can use them: those with an active package. They are managed elsewhere (`management`)."""

from typing import Any

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.replies import encode_json, json_reply, not_found
from millpond.domain.application import Application
from millpond.domain.errors import ErrorCode


async def list_applications(context: Context, request: Request) -> Response:
    limit = page_size(request)
    after = page_start(request)
    try:
        page = await context.control.store.list_applications(limit, after, active=True)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    items = [_object(application) for application in page.items]
    return json_reply(request, encode_json(page_of(request, "applications", items, page.next)))


async def get_application(context: Context, request: Request) -> Response:
    application_id = request.params["applicationId"]
    application = await context.control.store.get_application(application_id)
    if application is None or not application.active_versions:
        raise not_found(ErrorCode.APPLICATION_NOT_FOUND, "application", application_id)
    metadata = f"{request.base_url}/$metadata#applications/@Element"
    body = {"odata.metadata": metadata, **_object(application)}
    return json_reply(request, encode_json(body), application.last_modified)


def _object(application: Application) -> dict[str, Any]:
    return {
        "id": application.id,
        "displayName": application.display_name or application.id,
        "versions": application.active_versions,
    }
