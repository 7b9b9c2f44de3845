"""Files that appear whole or not at all, whatever ends the program, and folders that can be written to."""
import contextlib
import csv
import os

from engine import strict_json
from errors import InputError, WriteError


@contextlib.contextmanager
def written_whole(path, mode="w"):
    """A file that appears under its name, synced to disk, only when all of it is written; or WriteError."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, mode) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
        sync_names(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)


def sync_names(folder):
    """What was made and renamed in a folder survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, value):
    with written_whole(path) as out:
        out.write(strict_json.dumps(value, indent=2) + "\n")


def write_csv(path, header, rows):
    with written_whole(path) as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def make_folder(path, option):
    """Create a folder that can be written to, or say in one sentence why not. Returns all that were made."""
    return make_folders((path, option))


def make_folders(*wanted):
    """The same for several (path, option): all of them, or none is left behind."""
    made = []
    for path, option in wanted:
        try:
            above = os.path.abspath(path)
            missing = []
            while not os.path.isdir(above):
                missing.append(above)
                above = os.path.dirname(above)
            for folder in reversed(missing):
                os.mkdir(folder)
                made.append(folder)
            probe = os.path.join(path, f".probe.{os.getpid()}.part")
            with open(probe, "w"):
                pass
            os.remove(probe)
        except OSError as error:
            remove_folders(made)
            raise InputError(f"{option}={path} cannot be written: {error.strerror}") from None
    return made


def remove_folders(made):
    """Undo `make_folders`; folders that something was put into since stay."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            os.rmdir(folder)
