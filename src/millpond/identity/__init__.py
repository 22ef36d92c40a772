"""Who a bearer token speaks for, and what they may do."""
