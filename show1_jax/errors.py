"""The one exception a person sees."""


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do.

    Command lines print it as it is and leave with exit code 2; library users may catch it.
    """
