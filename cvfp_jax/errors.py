"""The one exception that stands for a mistake of the user's and not of ours."""


class UserError(Exception):
    """A mistake the user can mend; its text is one line: what is wrong, what is allowed, what to do.

    ``launch.py`` prints the text and exits with status 2 and no traceback. Every other exception is a
    bug of this project and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        """Keeps the message on one line, whatever file names or parser messages it quotes."""
        super().__init__(" ".join(message.split()))
