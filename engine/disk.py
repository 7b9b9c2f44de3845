"""Atomic files, which are complete or absent whatever ends the program; and folders, tested for writing."""
import contextlib
import csv
import os

from engine import strict_json
from errors import InputError, WriteError


@contextlib.contextmanager
def written_whole(path, mode="w"):
    """Open a file that appears under its name only when it is complete and synced to disk. Raises WriteError."""
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
    """Sync a folder, so that files created or renamed in it survive a power cut."""
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
    """Create a folder and test that it can be written to. Returns the folders it created, parents included."""
    return make_folders((path, option))


def make_folders(*wanted):
    """The same for several (path, option). If one fails, removes those it created and raises InputError."""
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
    """Undo `make_folders`, except for folders that are no longer empty."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            os.rmdir(folder)
