"""The operations, by noun. An operation is handled by the function of its name; one without answers 501."""

from typing import Final

from millpond.api.context import Handler
from millpond.api.handlers import account, files, jobs, nodes, pools, tasks

_HANDLERS: Final[tuple[Handler, ...]] = (
    account.list_supported_images,
    account.list_pool_node_counts,
    pools.create_pool,
    pools.get_pool,
    pools.pool_exists,
    pools.list_pools,
    pools.update_pool,
    pools.replace_pool_properties,
    pools.delete_pool,
    pools.resize_pool,
    pools.stop_pool_resize,
    pools.remove_nodes,
    nodes.get_node,
    nodes.list_nodes,
    nodes.reboot_node,
    nodes.reimage_node,
    nodes.deallocate_node,
    nodes.start_node,
    nodes.disable_node_scheduling,
    nodes.enable_node_scheduling,
    nodes.preempt_node,
    files.list_node_files,
    files.get_node_file_properties,
    files.download_node_file,
    files.delete_node_file,
    jobs.create_job,
    jobs.get_job,
    jobs.list_jobs,
    jobs.update_job,
    jobs.replace_job,
    jobs.disable_job,
    jobs.enable_job,
    jobs.terminate_job,
    jobs.delete_job,
    jobs.get_job_task_counts,
    jobs.list_job_preparation_and_release_task_status,
    tasks.create_task,
    tasks.create_task_collection,
    tasks.get_task,
    tasks.list_tasks,
    tasks.list_subtasks,
    tasks.replace_task,
    tasks.terminate_task,
    tasks.reactivate_task,
    tasks.delete_task,
    files.list_task_files,
    files.get_task_file_properties,
    files.download_task_file,
    files.delete_task_file,
)

HANDLERS: Final[dict[str, Handler]] = {handler.__name__: handler for handler in _HANDLERS}
"""Operation name → handler."""
