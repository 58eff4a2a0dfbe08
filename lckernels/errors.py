"""What a user of the command got wrong."""


class InputError(ValueError):
    """Bad input of the command: one sentence that names what came and what is allowed."""
