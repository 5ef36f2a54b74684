"""The exceptions that a user sees."""


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do.

    Command lines print it as it is and leave with exit code 2; library users may catch it.
    """


class FileError(UserError):
    """A file that is not what it should be.

    Attributes:
        problem: the line without what to do about it.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
