"""The operations of the management plane, by noun. Each is handled by the function of its name."""

from typing import Final

from millpond.api.management.context import ManagementHandler
from millpond.api.management.handlers import accounts, applications, around, locations, pools

_HANDLERS: Final[tuple[ManagementHandler, ...]] = (
    around.list_tenants,
    around.list_subscriptions,
    around.get_subscription,
    around.list_locations,
    around.list_resource_groups,
    around.get_resource_group,
    around.resource_group_exists,
    around.create_resource_group,
    around.update_resource_group,
    around.delete_resource_group,
    around.get_group_deletion,
    around.list_resources,
    around.list_providers,
    around.get_provider,
    around.register_provider,
    around.list_batch_operations,
    locations.get_location_quotas,
    locations.list_virtual_machine_skus,
    locations.check_name_availability,
    accounts.list_accounts,
    accounts.list_accounts_of_group,
    accounts.get_account,
    accounts.create_account,
    accounts.update_account,
    accounts.delete_account,
    accounts.get_account_operation,
    accounts.list_account_keys,
    accounts.regenerate_account_key,
    accounts.synchronize_auto_storage_keys,
    accounts.list_outbound_network_dependencies,
    accounts.list_nothing,
    accounts.get_nothing,
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
    pools.list_account_pools,
    pools.get_account_pool,
    pools.create_account_pool,
    pools.update_account_pool,
    pools.delete_account_pool,
    pools.get_pool_deletion,
    pools.disable_account_pool_auto_scale,
    pools.stop_account_pool_resize,
)

HANDLERS: Final[dict[str, ManagementHandler]] = {handler.__name__: handler for handler in _HANDLERS}
"""Operation name → handler."""
