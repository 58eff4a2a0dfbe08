"""Errors of the library that are no plain ValueError or TypeError."""


class InputError(ValueError):
    """An input that cannot be used: a file, a text, a model folder.

    The message is one sentence naming what was given and what is expected. The command line prints it and
    exits; a program catches it as a ValueError.
    """
