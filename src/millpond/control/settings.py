"""The control plane's tunables; `config` fills them in."""

import msgspec

from millpond.domain.autoscale import MIN_INTERVAL_S


class ControlSettings(msgspec.Struct, frozen=True):
    """Times are in seconds."""

    owner: str = "local"
    """Under which name leases are held. A restarted service that is sure to be alone keeps its name."""
    lease_ttl_s: float = 30.0
    inbox_limit: int = 50_000
    """Tasks and events one engine holds before it answers ServerBusy."""
    silent_after_s: float = 15.0
    """A node not heard of for so long is shown as `unknown`."""
    lost_after_s: float = 60.0
    """A node not heard of for so long is given up: its tasks run elsewhere."""
    park_s: float = 10.0
    """How long a node's sync is held back while there is nothing to say; well below `silent_after_s`."""
    resend_s: float = 1.0
    """A directive sent and not confirmed as seen is sent again after that."""
    observe_interval_s: float = 2.0
    """How often the provider is asked about nodes; nodes being released are asked about more often."""
    provider_retry_s: float = 1.0
    store_retry_s: float = 1.0
    """How long an engine whose commit failed refuses changes before it reads the store again."""
    file_timeout_s: float = 20.0
    """How long a node may take to begin to answer a file request."""
    spec_cache_bytes: int = 64 << 20
    """Task specifications kept in memory between their commit and their hand-over to a node."""
    max_applications: int | None = 20
    """Applications the account may have; None is no limit."""
    max_application_packages: int | None = 40
    """Packages one of them may have."""
    pool_quota: int | None = None
    """Pools there may be at a time; None is no limit."""
    dedicated_core_quota: int | None = None
    """Cores the dedicated nodes may have together; None is no limit."""
    low_priority_core_quota: int | None = None
    """Cores the low-priority nodes may have together; None is no limit."""
    active_job_quota: int | None = None
    """Jobs and job schedules that are not completed there may be at a time, the jobs that schedules make not refused;
    None is no limit."""
    purge_chunk: int = 5_000
    """Task rows of a deleted job removed per transaction."""
    sweep_interval_s: float = 6 * 3600.0
    """How often rows that nothing refers to any more are looked for."""
    sweep_chunk: int = 1_000
    """Rows looked at per transaction."""
    auto_scale_min_interval_s: float = MIN_INTERVAL_S
    """The shortest interval a user may ask for between evaluations of a formula."""
    auto_scale_on_queue_change: bool = False
    """Formulas are evaluated also soon after the tasks of their pool have changed."""
    auto_scale_max_nodes: int = 100_000
    """Nodes a formula may ask for; more are cut off."""
    events_file: str | None = None
    """Where service log events are appended, one JSON object a line; None is nowhere."""
    sample_s: float = 30.0
    """How often pools are sampled for formulas."""
    sample_history_s: float = 2 * 86400.0
    """How long samples are kept."""
    kept_log_file_bytes: int = 1 << 20
    """How much is kept of each file of a task's logs; 0 keeps none."""
    kept_log_total_bytes: int = 10 << 30
    """How much is kept of all of them; the oldest go."""
    kept_log_s: float = 30 * 86400.0
    """How long logs are kept."""
