"""What a simulated task does: its specification, as the simulated runner reads it."""

import msgspec


class TaskPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exit codes are by attempt; the last one stands for all further ones (special tasks begin again with the first)."""

    run_s: float
    prepare_s: float = 0.0
    exit_codes: tuple[int, ...] = (0,)
    upload_fails: bool = False
    coordination_s: float = 0.0
    """How long the coordination command of an instance takes."""
    coordination_fails: int = 0
    """In that many attempts the coordination command of the last instance fails."""
