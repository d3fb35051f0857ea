"""What a user did wrong, as opposed to what is wrong with the code."""


class UserError(Exception):
    """A mistake that one sentence explains: the command line prints that sentence, without a traceback."""
