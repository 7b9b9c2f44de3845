"""The exceptions that end the program with a sentence instead of a traceback."""


class InputError(Exception):
    """One sentence that names the option, file or value and what was expected; exit code 2."""


class Divergence(Exception):
    """A loss or a weight is not finite: the run stops, its last good checkpoint stays; exit code 3."""
