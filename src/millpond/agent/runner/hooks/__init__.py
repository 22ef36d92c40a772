"""What happens around the command line of a task, one file each. The order is in `runner.task_runner`."""
