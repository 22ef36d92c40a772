"""Domain records into wire form."""
