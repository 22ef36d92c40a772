"""The asyncio shell around the scheduler: commits, outboxes, timers, nodes."""
