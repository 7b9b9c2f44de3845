#!/usr/bin/env python3
"""Give damaged files to every reader. Each case must succeed or raise the reader's own error, which names the file.

    python tests/programs/fuzz.py                       20 000 cases; one reader: --only obj
    python tests/programs/fuzz.py --cases 500

Small valid files are cut, spliced and filled with extreme numbers. In files with checksums (zip, PNG) the content is
damaged too, with new checksums. Any other error is an escape, and so is a case of more than 20 seconds or more than
2 GiB. Escapes are kept in --keep, and the exit code is then 1.

To add a reader, add a line to `fuzz_readers.py`.
"""
import argparse
import collections
import contextlib
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hypothesis  # noqa: E402
import hypothesis.strategies as st  # noqa: E402
import torch  # noqa: E402

import conftest  # noqa: E402,F401  (finds the packages)
from fuzz_readers import whole_files  # noqa: E402

SECONDS, MEMORY, DISK = 20, 2 << 30, 1 << 28
TOKENS = [b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"9" * 40, b"1e-320", b"0x10", b"\0", b"\n", b" ", b"/",
          b"\\",
          b"..", b"../../etc/passwd", b"/etc/passwd", b"[", b"{", b'"', b"[" * 3000, b"null", b"true", b"\xff\xfe",
          "é".encode(), b"%s%n", b",", b":", b"#", b"NaN", b"Infinity",
          b" # x", b"# R\xe4der\n", b"R\xe4der", b"1.#QNAN", b"f 1 2\n", b"f -4 -3 -2 -1\n", b"vt nan nan\n", b"\\\n", b"\r"]
MARKS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1a\x45", b"#\n"]  # before a file, most of byte orders
NUMBERS = [struct.pack(form, n) for form, n in (
    ("<I", 0), ("<I", 0xffffffff), ("<I", 0x7fffffff), ("<I", 0x80000000), ("<H", 0xffff), ("<B", 0xff), ("<B", 0),
    ("<Q", 2 ** 63 - 1), ("<Q", 2 ** 64 - 1), ("<Q", 2 ** 40), (">I", 0x7fffffff), (">I", 100000),
    (">I", 0xffffffff), ("<d", float("nan")), ("<f", float("inf")), ("<d", 1e300))]

# ---- damaging files -----------------------------------------------------------------------------------

PLACE = st.floats(0, 1, exclude_max=True)
EDITS = st.one_of(
    st.tuples(st.just("flip"), PLACE, st.integers(1, 255)),
    st.tuples(st.just("cut"), PLACE, st.none()),
    st.tuples(st.just("put"), PLACE, st.sampled_from(NUMBERS + TOKENS) | st.binary(max_size=9)),
    st.tuples(st.just("insert"), PLACE, st.sampled_from(TOKENS) | st.binary(max_size=9)),
    st.tuples(st.just("mark"), PLACE, st.sampled_from(MARKS)),
    st.tuples(st.just("word"), PLACE, st.sampled_from(TOKENS)),
    st.tuples(st.just("delete"), PLACE, st.integers(1, 200)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 200)))


def edited(data, edits):
    for kind, place, what in edits:
        at = int(place * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ what]) + data[at + 1:]
        elif kind == "cut":
            data = data[:at]
        elif kind == "put":
            data = data[:at] + what + data[at + len(what):]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "word":  # of text: from blank to blank
            start = max(data.rfind(b, 0, at) for b in (b" ", b"\n", b",", b":")) + 1
            end = min([data.find(b, at) for b in (b" ", b"\n", b",", b":") if b in data[at:]], default=len(data))
            data = data[:start] + what + data[end:]
        elif kind == "mark":
            data = what + data
        elif kind == "delete":
            data = data[:at] + data[at + what:]
        elif kind == "repeat":
            data = data[:at + what] + data[at:]
    return data


# ---- one case ---------------------------------------------------------------------------------------------

class TooLong(BaseException):
    pass


def too_long(*_):
    raise TooLong


def try_one(reader, name, data, base):
    """Run one case; returns None, or why its outcome is an escape."""
    folder = base / "case"
    folder.mkdir()
    path = folder / name
    try:
        path.write_bytes(reader.wrap(data) if reader.wrap else data)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader.read(path)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except reader.errors as error:
        if str(folder) not in str(error):
            return f"the message does not name the file: {error!r}"
    except TooLong:
        return f"more than {SECONDS} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc(limit=-6)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


class Escape(Exception):
    pass


def fuzz(reader, count, seed, base):
    """(cases that ended well, cases that ended in the reader's error, the smallest escape or None)."""
    outcomes, smallest = collections.Counter(), [None]

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, database=None, deadline=None, print_blob=False,
                         report_multiple_bugs=False, verbosity=hypothesis.Verbosity.quiet,
                         suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])
    @hypothesis.given(st.sampled_from(sorted(reader.files)), st.lists(EDITS, max_size=6))
    def case(name, edits):
        data = edited(reader.files[name], edits)
        why = try_one(reader, name, data, base)
        outcomes["escape" if why else "case"] += 1
        if why:
            smallest[0] = name, data, why
            raise Escape
    with contextlib.suppress(Escape):
        case()
    return outcomes["case"], smallest[0]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="readers whose name starts so")
    parser.add_argument("--keep", default="fuzz_escapes", help="folder for the files of escapes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    readers = [r for r in whole_files() if r.name.startswith(options.only or "")]
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, too_long)
    escapes, total, start = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as base, open(os.devnull, "w") as nowhere:
        base = Path(base)
        for reader in readers:
            for name, data in reader.files.items():
                why = try_one(reader, name, data, base)
                assert why is None, f"{reader.name}: the whole {name}: {why}"
        for i, reader in enumerate(readers):
            count = options.cases * (i + 1) // len(readers) - options.cases * i // len(readers)
            with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
                done, escape = fuzz(reader, count, options.seed, base)
            total += done
            if escape:
                name, data, why = escape
                escapes += 1
                kept = Path(options.keep) / f"{reader.name.replace(' ', '_').replace(',', '')}-{name}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(reader.wrap(data) if reader.wrap else data)
                print(f"ESCAPE of {reader.name} ({kept}): {why}", flush=True)
    print(f"{total} cases of {len(readers)} readers, {escapes} escapes; {time.monotonic() - start:.0f} s")
    return 1 if escapes else 0


if __name__ == "__main__":
    sys.exit(main())
