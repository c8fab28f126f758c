"""The exception that stands for a user's mistake, and its special cases."""


class InputError(ValueError):
    """Bad input: an option, a file or a data set that the user has to mend.

    The message is one line that says what is wrong, where (the file or the option), and the remedy. Command lines
    print that line without a traceback and exit with status 2; library users may catch it as a `ValueError`.
    """


class Stopped(BaseException):
    """
    A signal has asked this process to end. As `KeyboardInterrupt`, it is no error that anything else would catch.

    Args:
        signal_number (`int`): SIGINT or SIGTERM.
        kept (`str`, *optional*): a clause on what is kept of a run, where that is known.
    """

    def __init__(self, signal_number: int, kept: str | None = None):
        super().__init__(signal_number, kept)
        self.signal_number, self.kept = signal_number, kept


class NotFiniteError(InputError):
    """A loss, gradient, weight or logit that is not a finite number: nan or infinity, of which nothing can be told."""


class BrokenCertificateError(InputError):
    """A certified score above what an attack left, or that above the clean one: no table of such numbers may stand."""


def reason_of(error: BaseException) -> str:
    """
    What another library's exception says, for a line of ours: its first line without the full stop, with the next one
    where it ends in a colon; the exception's name where it says nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return reason.rstrip(".")
