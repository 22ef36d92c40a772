"""The snippets of docs/how-to/clients.md: each is run, as it stands, by the test of its client."""

import re

from tests.commands import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "clients.md"
_SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, list[tuple[str, str]]]:
    """By heading: the language and the text of each snippet below it, in their order."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {heading: _SNIPPET.findall(text) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}
    return {heading: snippets for heading, snippets in found.items() if snippets}


def snippet(heading: str, language: str, *, number: int = 0) -> str:
    """The text of a section's first (or another) snippet in a language."""
    texts: list[str] = [text for spoken, text in sections()[heading] if spoken == language]
    return texts[number]
