"""What a visitor may be told; anything else is a bug and answers 500."""


class NotFoundError(Exception):
    """There is no such thing; the message names it."""


class SoldOutError(Exception):
    """There is not enough of a product left; the message is its name."""
