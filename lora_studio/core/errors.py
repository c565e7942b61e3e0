"""Errors that a user can mend. Everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """Something went wrong that the user can put right.

    `message` says what and where (file, setting); `remedy` says the way out.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()
