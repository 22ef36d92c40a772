"""The whole cluster in one thread on virtual time."""
