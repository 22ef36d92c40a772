"""Request bodies of the management plane. Clients send back what they have read: what is read-only is taken and not
looked at."""

from millpond.api.schema.base import JsonObject, Wire


class _Resource(Wire):
    id: str | None = None
    name: str | None = None
    type: str | None = None
    etag: str | None = None
    system_data: JsonObject | None = None
    tags: dict[str, str] | None = None


class ApplicationProperties(Wire):
    display_name: str | None = None
    allow_updates: bool | None = None
    default_version: str | None = None


class ApplicationBody(_Resource):
    """Azure Batch management: Application."""

    properties: ApplicationProperties | None = None


class PackageBody(_Resource):
    """Azure Batch management: ApplicationPackage; all its properties are read-only."""

    properties: JsonObject | None = None


class ActivateBody(Wire):
    """Azure Batch management: ActivateApplicationPackageParameters."""

    format: str
