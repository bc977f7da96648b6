"""The one exception that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something given by the user cannot be used; the message says what, and what to do."""
