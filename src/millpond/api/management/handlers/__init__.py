"""The operations of the management plane, by noun. Each is handled by the function of its name."""

from typing import Final

from millpond.api.context import Handler
from millpond.api.management.handlers import accounts, applications

_HANDLERS: Final[tuple[Handler, ...]] = (
    accounts.list_accounts,
    accounts.list_accounts_of_group,
    accounts.get_account,
    applications.list_account_applications,
    applications.create_account_application,
    applications.get_account_application,
    applications.update_account_application,
    applications.delete_account_application,
    applications.list_application_packages,
    applications.create_application_package,
    applications.get_application_package,
    applications.delete_application_package,
    applications.activate_application_package,
)

HANDLERS: Final[dict[str, Handler]] = {handler.__name__: handler for handler in _HANDLERS}
"""Operation name → handler."""
