"""The points of the semantics that a naive implementation gets wrong, and the tests that hold Millpond to each.

The list is section 15 of the reference this project is built from. A point may be in several tests; each named here must
be there. Points of what is not built yet are named with their reason, so that none is forgotten.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

POINTS: dict[int, tuple[str, ...]] = {
    1: (
        "unit/scheduler/test_jobs.py::test_terminate_leaves_active_tasks_active",
        "unit/scheduler/test_dependencies.py::test_a_failed_parent_blocks_for_ever_and_keeps_the_job_open",
    ),
    2: (
        "unit/scheduler/test_jobs.py::test_an_empty_job_with_terminatejob_ends_at_once",
        "unit/scheduler/test_jobs.py::test_terminatejob_cannot_be_taken_back",
        "unit/scheduler/test_tasks.py::test_all_tasks_complete_ends_the_job",
    ),
    3: (
        "unit/scheduler/test_jobs.py::test_failing_tasks_terminate_a_job_that_asks_for_it",
        "unit/scheduler/test_dependencies.py::test_a_job_action_is_refused_where_the_job_takes_none",
    ),
    4: (
        "unit/scheduler/test_dependencies.py::test_exit_conditions_decide_what_satisfies",
        "unit/runner/test_task_runner.py::test_an_upload_that_fails",
    ),
    5: (
        "unit/scheduler/test_tasks.py::test_failures_before_the_command_are_not_retried",
        "unit/scheduler/test_tasks.py::test_a_lost_node_gives_its_tasks_back_uncounted",
        "unit/scheduler/test_jobs.py::test_a_requeue_by_disable_is_counted_as_such",
        "unit/scheduler/test_spot_nodes.py::test_a_preempted_node_stays_listed_and_its_tasks_count_nothing",
    ),
    6: (
        "unit/runner/test_task_runner.py::test_running_begins_before_the_downloads",
        "unit/runner/test_task_runner.py::test_the_wall_clock_counts_downloads",
        "unit/scheduler/test_jobs.py::test_the_wall_clock_of_a_job_counts_from_its_creation",
    ),
    7: (
        "unit/scheduler/test_special.py::test_preparation_is_lazy_and_runs_once_while_its_tasks_wait_in_preparing",
        "unit/scheduler/test_special.py::test_a_node_where_preparation_failed_is_barred_for_that_job_only",
        "unit/scheduler/test_special.py::test_a_reboot_does_not_lift_the_bar_a_reimage_does",
    ),
    8: (
        "unit/scheduler/test_special.py::test_release_runs_where_preparation_completed_and_the_job_waits_for_it",
        "unit/scheduler/test_special.py::test_a_release_task_no_node_answers_for_ends_with_its_time",
        "unit/scheduler/test_special.py::test_deleting_an_active_job_runs_release_first_and_a_completed_one_does_not",
        "clients/test_azure_batch_sdk_special.py::test_a_release_task_may_take_a_quarter_of_an_hour_at_most",
    ),
    9: (
        "unit/scheduler/test_special.py::test_a_job_ends_with_its_manager",
        "unit/scheduler/test_special.py::test_a_retry_or_requeue_of_the_manager_does_not_end_the_job",
        "unit/scheduler/test_managers.py::test_it_is_first_in_its_job_but_only_there",
        "unit/scheduler/test_managers.py::test_nodes_that_run_one_are_removed_last",
    ),
    10: (
        "unit/scheduler/test_jobs.py::test_jobs_outlive_their_pool_and_go_on_in_the_next",
        "clients/test_azure_batch_sdk.py::test_a_job_may_name_a_pool_that_comes_later",
        "clients/test_azure_batch_sdk_schedules.py::test_a_disabled_job_moves_to_another_pool",
    ),
    11: (
        "unit/scheduler/test_pools.py::test_stop_resize_keeps_what_was_reached",
        "unit/scheduler/test_pools.py::test_resize_needs_a_steady_pool_and_leaves_the_other_kind_alone",
    ),
    12: (
        "unit/scheduler/test_dependencies.py::test_leading_zeros_do_not_matter_and_the_first_counts",
        "unit/scheduler/test_dependencies.py::test_every_member_of_a_range_counts",
    ),
    13: (
        "unit/autoscale/test_evaluate.py::test_the_record_of_a_run_that_fails",
        "unit/autoscale/test_evaluate.py::test_fractions_are_cut",
        "unit/autoscale/test_evaluate.py::test_a_target_reads_as_last_assigned_or_else_as_the_pools",
    ),
    14: (
        "unit/scheduler/test_gangs.py::test_in_a_pool_of_another_kind_it_waits_for_ever_without_error",
        "unit/scheduler/test_gangs.py::test_the_primarys_exit_is_the_tasks_and_ends_the_others",
        "unit/runner/test_resource_files.py::test_common_files_and_own_ones",
    ),
    15: (
        "unit/scheduler/test_spot_nodes.py::test_it_is_made_again_under_its_id_and_runs_its_start_task_on_a_fresh_disk",
        "clients/test_azure_batch_sdk_nodes.py::test_a_spot_node_is_preempted_and_its_task_runs_again_there",
    ),
    16: (
        "unit/runner/test_packages.py::test_a_task_finds_its_packages_under_names_in_both_spellings",
        "unit/runner/test_packages.py::test_packages_of_a_task_are_its_own_affair_and_those_of_the_pool_everybodys",
        "clients/test_azure_mgmt_batch_packages.py::test_packages_of_a_pool",
        "clients/test_azure_mgmt_batch_packages.py::test_packages_of_a_task_are_not_told_to_others",
    ),
    17: (
        "clients/test_azure_batch_sdk_tasks.py::test_there_is_no_shell_unless_asked_for",
        "unit/runner/test_environment.py::test_what_every_task_sees",
        "unit/runner/test_environment.py::test_the_last_setting_of_a_name_wins",
        "unit/runner/test_output_files.py::test_the_frequent_mistake_is_pointed_out",
    ),
    18: (
        "clients/test_azure_batch_sdk_schedules.py::test_what_is_refused",
        "unit/scheduler/test_jobs.py::test_two_jobs_of_one_name_are_refused",
    ),
    19: (
        "unit/scheduler/test_job_schedules.py::test_when_jobs_are_made",
        "unit/scheduler/test_job_schedules.py::test_enabling_does_not_bring_lost_opportunities_back",
        "unit/scheduler/test_job_schedules.py::test_an_update_is_for_later_jobs_and_replaces_top_level_properties",
        "clients/test_azure_batch_sdk_schedules.py::test_a_schedule_with_a_job_manager_and_then_one_that_ends_with_its_tasks",
    ),
    20: (
        "api/test_files.py::test_files_past_their_retention",
        "api/test_files.py::test_what_the_node_says_of_a_tasks_files",
        "api/test_kept_files.py::test_what_was_not_kept_is_what_it_was",
        "process/test_logs.py::test_none_are_kept_where_that_is_turned_off",
        "process/test_logs.py::test_logs_outlive_a_pool_deleted_the_moment_the_tasks_end",
    ),
    21: (
        "unit/scheduler/test_node_operations.py::test_retaineddata_waits_for_the_files_too",
        "api/test_node_operations.py::test_operations_and_their_options",
    ),
    22: ("unit/scheduler/test_pools.py::test_a_removal_by_taskcompletion_lasts_until_the_tasks_end",),
    24: (
        "unit/scheduler/test_tasks.py::test_reactivate_starts_again_from_nothing",
        "unit/scheduler/test_dependencies.py::test_reactivating_a_parent_can_release_what_it_blocked",
    ),
    25: ("unit/scheduler/test_special.py::test_a_start_task_nobody_waits_for_neither_holds_nor_fails_the_node",),
}

NOT_BUILT_YET: dict[int, str] = {
    23: "containers",
}


def test_every_point_is_somewhere() -> None:
    assert sorted([*POINTS, *NOT_BUILT_YET]) == list(range(1, 26))


@pytest.mark.parametrize("point", POINTS)
def test_the_tests_of_a_point_are_there(point: int) -> None:
    for name in POINTS[point]:
        file, _, function = name.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in names, f"{file} has no {function}"
