"""What a person can mend."""


class UserError(ValueError):
    """A setting, a file, a folder or a device that cannot be used, in one line that says why.

    The command line prints it and ends. Any other ValueError is a mistake of this program, and
    keeps its traceback.
    """


# What a person or the machine can mend: told in a line. Everything else is ours: a traceback.
TOLD_IN_A_LINE = (UserError, FloatingPointError, OSError)
