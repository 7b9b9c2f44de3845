"""Numbers of the command line, with what is wrong in a sentence."""
import argparse


def integer(least):
    def convert(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value
    convert.__name__ = f"integer of at least {least},"
    return convert


def number(least, above=False):
    def convert(text):
        value = float(text)
        if not least <= value < float("inf") or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number {'above' if above else 'from'} {least}"
                                             f"{'' if above else ' on'}")
        return value
    convert.__name__ = "number"
    return convert


natural, positive = integer(0), integer(1)
