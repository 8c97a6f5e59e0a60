"""What a person can mend."""


class UserError(ValueError):
    """A setting, a file, a folder or a device that cannot be used, in one line that says why.

    The command line prints it and ends. Any other ValueError is a mistake of this program, and
    keeps its traceback.
    """


# Modules of the errors in which the clients of object stores tell what these answered; of
# TensorFlow's, those that a store gives: others come from a graph, which is ours.
_OF_STORES = ("google.api_core.", "google.auth.")
_OF_TENSORFLOW = "tensorflow.python.framework.errors"
_ANSWERS = (
    *("AbortedError", "DeadlineExceededError", "NotFoundError", "PermissionDeniedError"),
    *("UnauthenticatedError", "UnavailableError"),
)


def of_store(error: BaseException) -> bool:
    """Whether an object store, or the way to it, is behind an error that is no OSError."""
    kind = type(error)
    if kind.__module__.startswith(_OF_TENSORFLOW):
        return kind.__name__ in _ANSWERS
    return kind.__module__.startswith(_OF_STORES)


# What a person or the machine can mend: told in a line. Everything else is ours: a traceback.
TOLD_IN_A_LINE = (UserError, FloatingPointError, OSError)
