"""Exceptions that end the program with a message instead of a traceback."""


class InputError(Exception):
    """One sentence that names the option, file or value and what was expected."""
    exit_code = 2


class Divergence(Exception):
    """A loss, gradient or weight is not finite, from `step` on if that is known. The run stops and keeps its last good
    checkpoint."""
    exit_code = 3

    def __init__(self, what, step=None):
        super().__init__(what)
        self.step = step


class WriteError(OSError):
    """A file cannot be written, usually because the disk is full. The file that was there before is intact."""
    exit_code = 74


class Stopped(KeyboardInterrupt):
    """A signal ends the run; --resume continues it."""
    exit_code = 75


class DeviceError(Exception):
    """A GPU or another process of the run failed. The saved checkpoints are intact."""
    exit_code = 3
