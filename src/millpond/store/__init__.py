"""Truth on disk: the contract and its implementations."""
