"""`millpond storage`: the account's auto-storage from a shell."""
