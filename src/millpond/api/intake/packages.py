"""References to application packages, as pools and tasks have them."""

from collections.abc import Sequence

from millpond.api.schema.task import ApplicationPackageReference
from millpond.domain.application import is_version
from millpond.domain.errors import invalid_property


def check_package_references(references: Sequence[ApplicationPackageReference] | None) -> None:
    """Their form. Raises BatchError naming what is wrong."""
    for index, reference in enumerate(references or ()):
        name = f"applicationPackageReferences[{index}]"
        if not reference.application_id:
            raise invalid_property(f"{name}.applicationId", "", "it is empty")
        if reference.version and not is_version(reference.version):
            raise invalid_property(
                f"{name}.version",
                reference.version,
                "a version has 1 to 64 letters, digits, hyphens, underscores and periods",
            )
