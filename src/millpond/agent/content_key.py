"""By what a content is known: its URL without what only says who asks."""

import hashlib
from typing import Final
from urllib.parse import unquote, urlsplit

_SHARED_ACCESS: Final = frozenset(
    {
        *("sv", "ss", "srt", "sp", "st", "se", "sip", "spr", "sig", "sr", "si", "ses", "sdd"),
        *("saoid", "suoid", "sduoid", "scid", "skoid", "sktid", "skt", "ske", "sks", "skv"),
    }
)
"""Azure's shared access signatures, and the auto-storage's."""
_OLD_S3: Final = frozenset({"awsaccesskeyid", "googleaccessid", "signature", "expires"})
_SIGNED_PREFIXES: Final = ("x-amz-", "x-goog-")


def content_key(url: str) -> str:
    """A digest of the URL that is the same whoever signs it and until whenever: 32 hexadecimal digits.

    What a signature consists of is left out only where there is a whole one: in any other URL the same words may say
    which content is meant. Raises ValueError for what is no URL.
    """
    parts = urlsplit(url)
    pairs = [pair for pair in parts.query.split("&") if pair]
    names = [unquote(pair.partition("=")[0]).lower() for pair in pairs]
    known = frozenset(names)
    kept = [
        pair
        for pair, name in zip(pairs, names, strict=True)
        if not (
            (name in _SHARED_ACCESS and "sig" in known and ("se" in known or "si" in known))
            or (name in _OLD_S3 and {"signature", "expires"} < known)
            or (name.startswith(_SIGNED_PREFIXES) and f"{name[: name.index('-', 2)]}-signature" in known)
        )
    ]
    host = parts.netloc.rpartition("@")[2].lower()
    text = f"{parts.scheme.lower()}://{host}{parts.path}?{'&'.join(kept)}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
