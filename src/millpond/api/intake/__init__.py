"""Request bodies into domain records: what is checked, and what is handed to the scheduler."""
