"""What is wrong with a query option, and where."""


class QueryOptionError(ValueError):
    """A query option that cannot be used. The text names the reason, `position` the character it was found at."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        """Index into the option's text, from 0."""


class FilterError(QueryOptionError):
    """A `$filter` that is not in the grammar, or asks for a property or operator the listing does not offer."""


class SelectError(QueryOptionError):
    """A `$select` or `$expand` that names what the entity does not have."""
