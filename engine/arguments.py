"""Declarations of command-line options: dictionaries {name: keywords of argparse's add_argument}."""
import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

from errors import InputError


@dataclass(frozen=True)
class Mode:
    """A mode as the command line sees it; each file of modes/ defines one, MODE.

    Attributes
    ----------
    run : called as run(options, device); returns the exit code. A mode that trains also gets `defaults`, the default
        values of all options.
    help : one line.
    options : options of this mode; a mode refuses the options of other modes.
    taken_by_all : options that every mode accepts, since scripts of the published program pass them to every mode.
    several_processes : whether torchrun may start it.
    results : output folder if neither --sample_dir nor --ckpt_dir is given.
    """
    run: Callable
    help: str
    options: dict = field(default_factory=dict)
    taken_by_all: dict = field(default_factory=dict)
    several_processes: bool = False
    results: str = "results"


def integer(least):
    """argparse's type of an integer from `least` on."""
    def convert(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value
    convert.__name__ = f"integer of at least {least},"
    return convert


def number(least, above=False):
    """argparse's type of a finite number from `least` on, or above it."""
    def convert(text):
        value = float(text)
        if not least <= value < float("inf") or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number {'above' if above else 'from'} {least}"
                                             f"{'' if above else ' on'}")
        return value
    convert.__name__ = "number"
    return convert


class Names(argparse.Action):
    """Names apart by blanks, with nargs='+', or by commas, as in the published program."""

    def __call__(self, parser, namespace, values, option_string=None):
        names = [name.strip() for value in values for name in value.split(",") if name.strip()]
        if not names:
            raise argparse.ArgumentError(self, f"{' '.join(values)!r} names nothing")
        setattr(namespace, self.dest, names)


def need(options, name):
    """Raise InputError if an option is missing."""
    if getattr(options, name) is None:
        raise InputError(f"--mode={options.mode} needs --{name}")
