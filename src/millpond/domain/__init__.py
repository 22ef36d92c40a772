"""The nouns of Azure Batch, pure: records, states, events, effects, errors."""
