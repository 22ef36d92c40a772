"""Other programs that run commands, for comparison: `known`. Their drivers run without Millpond: nothing is imported here."""
