"""Who tasks run as, and what they may use up, on a node whose agent is root."""
