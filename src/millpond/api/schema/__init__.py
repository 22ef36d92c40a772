"""Wire types of request bodies, spelled as the specification spells them (2025-06-01 and 2024-02-01.19.0)."""
