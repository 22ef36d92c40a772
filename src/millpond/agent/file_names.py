"""Names of files as text. On disk a name is bytes, and not all of them are UTF-8; what is sent and shown is text.

A byte that is no part of UTF-8 is shown as the character U+EF00 plus its value, in the Unicode range for private use.
Such a character in a name of UTF-8 is itself shown as its three bytes, so that no two names look the same.
"""

import re
from typing import Final

_SURROGATES: Final = re.compile("[\udc80-\udcff\uef80-\uefff]")
_SHOWN: Final = re.compile("[\uef80-\uefff]")
_TO_SHOWN: Final = 0xEF00 - 0xDC00


def shown(name: str) -> str:
    """A name as the operating system gave it to Python (`surrogateescape`), as text that can be encoded."""
    return name if name.isascii() else _SURROGATES.sub(_show, name)


def meant(path: str) -> str:
    """The name or path that is shown so, for the operating system."""
    return path if path.isascii() else _SHOWN.sub(lambda found: chr(ord(found[0]) - _TO_SHOWN), path)


def _show(found: "re.Match[str]") -> str:
    character = found[0]
    if character < "\ue000":
        return chr(ord(character) + _TO_SHOWN)
    return "".join(chr(0xEF00 + byte) for byte in character.encode())
