"""Applications and their packages."""

from typing import Any

from millpond.api.decode import body_decoder, drain, read_management_json, read_optional_json
from millpond.api.http import Request, Response
from millpond.api.management.context import ManagementContext
from millpond.api.management.resources import account_id, page_reply, quoted_etag, resource_reply
from millpond.api.management.schema import ActivateBody, ApplicationBody, ApplicationProperties, PackageBody
from millpond.api.paging import bad_skiptoken, page_size, page_start
from millpond.control.applications import ApplicationChanges
from millpond.domain.application import PACKAGE_FORMAT, Application, ApplicationPackage, PackageState
from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import id_key

_application_decoder = body_decoder(ApplicationBody)
_package_decoder = body_decoder(PackageBody)
_activate_decoder = body_decoder(ActivateBody)

_TYPE = "Microsoft.Batch/batchAccounts/applications"


async def list_account_applications(context: ManagementContext, request: Request) -> Response:
    limit = page_size(request)
    after = page_start(request)
    try:
        page = await context.control.store.list_applications(limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    return page_reply(request, [_application(context, request, one) for one in page.items], page.next)


async def create_account_application(context: ManagementContext, request: Request) -> Response:
    changes = _changes(await read_optional_json(request, _application_decoder))
    application = await context.control.applications.put(request.params["applicationName"], changes)
    return resource_reply(_application(context, request, application))


async def update_account_application(context: ManagementContext, request: Request) -> Response:
    changes = _changes(await read_management_json(request, _application_decoder))
    application = await context.control.applications.update(request.params["applicationName"], changes)
    return resource_reply(_application(context, request, application))


async def get_account_application(context: ManagementContext, request: Request) -> Response:
    return resource_reply(_application(context, request, await _found(context, request)))


async def delete_account_application(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    was_there = await context.control.applications.delete(request.params["applicationName"])
    return Response(200 if was_there else 204)


async def list_application_packages(context: ManagementContext, request: Request) -> Response:
    limit = page_size(request)
    after = page_start(request) or ""
    application = await _found(context, request)
    packages = [one for one in application.packages if id_key(one.version) > after]
    items = [_package(context, request, application, one) for one in packages[:limit]]
    return page_reply(request, items, id_key(packages[limit - 1].version) if len(packages) > limit else None)


async def create_application_package(context: ManagementContext, request: Request) -> Response:
    body = await read_optional_json(request, _package_decoder)
    application, package, url = await context.control.applications.create_package(
        request.params["applicationName"], request.params["versionName"], None if body is None else body.tags
    )
    return resource_reply(_package(context, request, application, package, (url, package.storage_url_expiry or 0.0)))


async def get_application_package(context: ManagementContext, request: Request) -> Response:
    application = await _found(context, request)
    version = request.params["versionName"]
    package = application.package(version)
    if package is None:
        raise BatchError(
            ErrorCode.APPLICATION_PACKAGE_NOT_FOUND,
            f"The application '{application.id}' has no version '{version[:64]}'.",
        )
    url = context.control.applications.download_url(package)
    return resource_reply(_package(context, request, application, package, url))


async def delete_application_package(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    was_there = await context.control.applications.delete_package(
        request.params["applicationName"], request.params["versionName"]
    )
    return Response(200 if was_there else 204)


async def activate_application_package(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _activate_decoder)
    application, package = await context.control.applications.activate(
        request.params["applicationName"], request.params["versionName"], body.format
    )
    url = context.control.applications.download_url(package)
    return resource_reply(_package(context, request, application, package, url))


async def _found(context: ManagementContext, request: Request) -> Application:
    application_id = request.params["applicationName"]
    application = await context.control.store.get_application(application_id)
    if application is None:
        raise BatchError(ErrorCode.APPLICATION_NOT_FOUND, f"The application '{application_id[:64]}' does not exist.")
    return application


def _changes(body: ApplicationBody | None) -> ApplicationChanges:
    if body is None:
        return ApplicationChanges()
    properties = body.properties or ApplicationProperties()
    return ApplicationChanges(properties.display_name, properties.allow_updates, properties.default_version, body.tags)


def _application(context: ManagementContext, request: Request, application: Application) -> dict[str, Any]:
    properties: dict[str, Any] = {"allowUpdates": application.allow_updates}
    if application.display_name is not None:
        properties["displayName"] = application.display_name
    if application.default_version is not None:
        properties["defaultVersion"] = application.default_version
    return {
        "id": f"{account_id(request, context.account)}/applications/{application.id}",
        "name": application.id,
        "type": _TYPE,
        "etag": quoted_etag(application.last_modified),
        "tags": application.tags,
        "properties": properties,
    }


def _package(
    context: ManagementContext,
    request: Request,
    application: Application,
    package: ApplicationPackage,
    url: tuple[str, Timestamp] | None = None,
) -> dict[str, Any]:
    active = package.state is PackageState.ACTIVE
    properties: dict[str, Any] = {"state": "Active" if active else "Pending"}
    if active:
        properties["format"] = PACKAGE_FORMAT
    if url is not None:
        properties["storageUrl"] = url[0]
        properties["storageUrlExpiry"] = format_timestamp(url[1])
    if package.last_activation_time is not None:
        properties["lastActivationTime"] = format_timestamp(package.last_activation_time)
    parent = f"{account_id(request, context.account)}/applications/{application.id}"
    return {
        "id": f"{parent}/versions/{package.version}",
        "name": package.version,
        "type": f"{_TYPE}/versions",
        "etag": quoted_etag(package.last_modified),
        "tags": package.tags,
        "properties": properties,
    }
