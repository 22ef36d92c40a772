"""What every handler is given: the control plane, and what the process knows."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from millpond.api.http import Request, Response
from millpond.control.base import ControlPlane
from millpond.staging.auto_storage import AutoStorage


class Context(msgspec.Struct, frozen=True):
    """The surroundings of a handler."""

    control: ControlPlane
    storage: AutoStorage
    strict_images: bool = False
    """Pools are refused whose image or node agent is not in the list of supported images."""


Handler: TypeAlias = Callable[[Context, Request], Awaitable[Response]]
