"""The REST face: wire types, authentication, routing, handlers."""
