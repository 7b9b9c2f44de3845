"""The exceptions that end the program with a sentence instead of a traceback."""


class InputError(Exception):
    """One sentence that names the option, file or value and what was expected."""
    exit_code = 2


class Divergence(Exception):
    """A loss, gradient or weight is not finite, since `step` if that is known: the run stops, its last good
    checkpoint stays."""
    exit_code = 3

    def __init__(self, what, step=None):
        super().__init__(what)
        self.step = step


class WriteError(OSError):
    """A file cannot be written: a full disk, mostly. What was there before is still there, whole."""
    exit_code = 74


class Stopped(KeyboardInterrupt):
    """A signal says to end now; the run goes on with --resume."""
    exit_code = 75


class DeviceError(Exception):
    """A GPU, or another process of the run, has failed; what was saved before stays."""
    exit_code = 3
