"""The OData query options, pure: parse, evaluate, translate to SQL."""
