"""How often the garbage collector looks: the service and the hosts of nodes have hundreds of thousands of objects that live
long, and make thousands a second that are gone without it."""

import gc
from typing import Final

_YOUNG: Final = 20_000
"""Objects that are new when it looks at those; at what it has seen once or twice, after ten times and a hundred times as
many. Python's own 700 has it look at all of a host of thousands of nodes every few seconds: a quarter of what tasks cost
it."""


def settle_in() -> None:
    """What is there stays as long as the process, mostly: it is not looked at again, and what comes not so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
