#!/usr/bin/env python3
"""The fire test: kill and freeze tiny runs, fill their disk, resume them, and compare them with an undisturbed run.

    python tests/programs/fire.py                     100 kills, then each write fails once: some minutes
    python tests/programs/fire.py --kills 6 --faults 8 --disks 1

All disturbances are in this program, none in the product. A run is a fork of this process, which has torch loaded. In
the fork, `open`, `write`, `fsync`, `replace` and similar calls are counted. At a chosen call the process dies in the
middle of its work, or gets the error of a full or forbidden disk. The exit code is 1 if a resumed run differs.
"""
import argparse
import builtins
import collections
import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has only one thread

import numpy as np  # noqa: E402

import conftest  # noqa: E402,F401  (finds the modules)
import command  # noqa: E402
import loop  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402,F401  (the first step of an optimiser would)
import training  # noqa: E402
from engine import checkpoints, monitor, scribe  # noqa: E402

PHASES = ("start", "training", "validation", "checkpoint", "log", "samples")
CLOCK = {"time", "images_per_s"}
SAMPLES = {"picture", "mesh"}
STEPS = ("--n_iters=8", "--ckpt_step=3", "--sample_step=4", "--log_step=1", "--batch_size=4", "--enc_width=1",
         "--latent_dim=8", "--device=cpu", "--threads=1", "--keep_last=1")


class Board:
    """Shared memory in which a run reports its phase and its number of disk accesses, even if it dies."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 16)

    def clear(self):
        self.memory[:] = bytes(16)

    @property
    def phase(self):
        return PHASES[self.memory[0]]

    @phase.setter
    def phase(self, name):
        self.memory[0] = PHASES.index(name)

    @property
    def touches(self):
        return int.from_bytes(self.memory[8:16], "little")

    def touch(self):
        self.memory[8:16] = (self.touches + 1).to_bytes(8, "little")
        return self.touches


class Disk:
    """Counts the accesses of a process to files of one folder, and calls `due(n)` at the n-th."""

    def __init__(self, folder, board, due):
        self.folder, self.board, self.due = str(folder), board, due

    def install(self):
        real = builtins.open

        def opened(path, mode="r", *arguments, **options):
            if isinstance(path, int) or not set("wax") & set(mode) or not self._mine(path):
                return real(path, mode, *arguments, **options)
            self.touched(path)
            return File(real(path, mode, *arguments, **options), self)
        builtins.open = opened
        for name in ("replace", "rename", "link", "remove", "mkdir", "truncate", "rmdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        os.fsync = self._counted(os.fsync, lambda _: True)

    def _mine(self, path):
        return os.path.abspath(path).startswith(self.folder)

    def _counted(self, function, mine=None):
        def counted(first, *others, **more):
            if (mine or self._mine)(first):
                self.touched(first)
            return function(first, *others, **more)
        return counted

    def touched(self, path, half=None):
        self.due(self.board.touch(), path, half)


class File:
    """A file open for writing. A disturbance may let only half of the data reach the disk."""

    def __init__(self, file, disk):
        self.file, self.disk, self.room = file, disk, 0

    def write(self, data):
        """Counts as one disk access at first and one for each megabyte."""
        self.room -= len(data)
        if self.room > 0:
            return self.file.write(data)
        self.room = 1 << 20

        def half():
            self.file.write(bytes(data)[:len(data) // 2] if "b" in self.file.mode else data[:len(data) // 2])
            self.file.flush()
        self.disk.touched(self.file.name, half)
        return self.file.write(data)

    def writelines(self, lines):
        self.write("".join(lines))

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        return self.file.__exit__(*problem)

    def __getattr__(self, name):
        return getattr(self.file, name)


def die_at(number):
    def due(now, _path, half):
        if now == number:
            if half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
    return due


def fail_at(number, code, for_good):
    """The n-th disk access fails; if `for_good`, all later ones fail too, including removals."""
    def due(now, path, half):
        if now == number or for_good and now > number:
            if half and now == number:
                half()
            raise OSError(code, os.strerror(code), str(path))
    return due


def tell_phases(board):
    """Wrap the parts of a run, so that `board` shows which one is running."""
    def wrap(owner, name, phase):
        function = getattr(owner, name)

        def told(*arguments, **more):
            before, board.phase = board.phase, phase
            try:
                return function(*arguments, **more)
            finally:
                board.phase = before
        setattr(owner, name, told)
    wrap(training.Trainer, "step", "training")
    wrap(loop, "score", "validation")
    wrap(loop, "_write_samples", "samples")
    for name in ("write_next", "name_best", "name_last"):
        wrap(checkpoints, name, "checkpoint")
    for name in ("record", "sync"):
        wrap(monitor.Monitor, name, "log")


def depend_on_random_numbers():
    """Brighten the images of a step by random numbers of torch, NumPy and Python, like an augmentation."""
    step = training.Trainer.step

    def brightened(self, number, batch):
        batch.images.add_(1e-2 * (float(torch.rand(())) + np.random.rand() + random.random()))
        return step(self, number, batch)
    training.Trainer.step = brightened


class Range:
    """Starts runs and counts the results."""

    def __init__(self, base, data, seed):
        self.base, self.data, self.rng = base, data, random.Random(seed)
        self.board = Board()
        self.template = conftest._template(base)
        self.counts, self.phases, self.wrong = collections.Counter(), collections.Counter(), []
        self.folders = (base / f"run{n}" for n in itertools.count())
        command.script()  # load the script now, so that edits during the test do not matter
        self.whole, again = self.new_folder(), self.new_folder()
        self.seconds = min(self._undisturbed(folder) for folder in (self.whole, again))
        self.touches, self.expected = self.board.touches, self.result(self.whole)
        assert self.compare(again, "undisturbed, once more")

    def _undisturbed(self, folder):
        start = time.monotonic()
        code, said = self.finish(self.run(folder))
        assert code == 0, said
        return time.monotonic() - start

    def new_folder(self):
        return next(self.folders)

    def run(self, folder, due=lambda *_: None):
        """Fork a training in `folder`, resumed if it was begun; returns its process id."""
        self.board.clear()
        child = os.fork()
        if child:
            return child
        try:
            output = os.open(self.base / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1), os.dup2(output, 2)
            depend_on_random_numbers()
            tell_phases(self.board)
            Disk(folder, self.board, due).install()
            code = command.script().main(["--mode=train", "--resume", f"--data_dir={self.data}", "--lambda_adv=1",
                                          f"--ckpt_dir={folder}", f"--obj_dir={self.template}", *STEPS])
        except BaseException:
            code = 1
            with contextlib.suppress(OSError):
                traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

    def finish(self, child):
        """(exit code, output); a negative code is minus the number of a signal."""
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, (self.base / "output").read_text(errors="replace")

    # ---- what is compared ----------------------------------------------------------------------------

    def result(self, folder):
        """Everything in a finished run that must not depend on the disturbances."""
        kept = {name: checkpoints.load(folder / name) for name in ("last.pt", "last.prev.pt", "best.pt", "step-00008.pt")}
        for state in kept.values():
            for key in ("elapsed", "options"):
                del state[key]
        return kept, [{k: v for k, v in record.items() if k not in CLOCK} for record in command.metrics(folder)], \
            {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.parent != folder else ""
             for p in sorted(folder.rglob("*"))}

    def compare(self, folder, what, without_samples=False):
        """Whether a resumed and finished run equals the undisturbed one. If so, removes it."""
        try:
            (kept, log, files), (kept_2, log_2, files_2) = self.result(folder), self.expected
            if without_samples:  # a full disk may cost a picture
                log, log_2 = ([{k: v for k, v in r.items() if k not in SAMPLES} for r in rows]
                              for rows in (log, log_2))
                files, files_2 = ([n for n in f if not n.startswith("samples/")] for f in (files, files_2))
            problems = [d for pair in ((kept, kept_2, "checkpoints"), (log, log_2, "log"), (files, files_2, "files"))
                        for d in command.differences(*pair)]
        except Exception as error:
            problems = [repr(error)]
        if problems:
            self.blame(what, problems[:5], folder)
        else:
            shutil.rmtree(folder)
        return not problems

    def blame(self, what, problem, folder=None):
        self.wrong.append((what, problem))
        print(f"WRONG: {what}: {problem} {folder or ''}", flush=True)

    def resumed_well(self, folder, what, **more):
        code, said = self.finish(self.run(folder))
        if code:
            self.blame(what, f"the resumed run ended with {code}: {said[-2000:]}", folder)
            return False
        return self.compare(folder, what, **more)

    # ---- what happens to runs --------------------------------------------------------------------------

    def kills(self, count, in_a_chain=5):
        """kill -9 a run up to five times, then resume it to its end."""
        while count > 0:
            folder, what = self.new_folder(), []
            for _ in range(min(in_a_chain, count)):
                (code, said), how = self._kill(folder)
                what.append(how)
                if code == -signal.SIGKILL:
                    count -= 1
                    self.counts["killed"] += 1
                    self.phases[self.board.phase] += 1
                elif code:
                    self.blame(f"killed {what}", f"ended with {code}: {said[-2000:]}", folder)
                    return
                else:
                    break  # it was done before
            if self.resumed_well(folder, f"killed {what}"):
                self.counts["runs equal after kills"] += 1

    def _kill(self, folder):
        """Kill a run in the middle of a disk access, at a random moment, or in a rare phase; sometimes freeze it
        before. Returns how it ended and how it was killed."""
        if self.rng.random() < 0.4:
            touch = self.rng.randint(1, self.touches)
            return self.finish(self.run(folder, die_at(touch))), f"at touch {touch}"
        wait, wanted = self.rng.uniform(0, self.seconds), self.rng.choice(PHASES[1:3] + (None,))
        child = self.run(folder)
        time.sleep(wait)
        while wanted and self.board.phase != wanted and not \
                os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.0005)
        if self.rng.random() < 0.3:
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(child, signal.SIGCONT)
            self.counts["frozen and thawed"] += 1
        os.kill(child, signal.SIGKILL)
        return self.finish(child), f"after {wait:.3f} s{f' in {wanted}' if wanted else ''}"

    def faults(self, numbers):
        """The n-th disk access fails, as on a full or forbidden disk, once or from then on."""
        for number in numbers:
            code, for_good = (errno.ENOSPC, errno.EACCES)[number % 2], number % 3 == 0
            what = f"{errno.errorcode[code]} at touch {number} of {self.touches}{', for good' * for_good}"
            folder = self.new_folder()
            ended, said = self.finish(self.run(folder, fail_at(number, code, for_good)))
            self.counts[f"failing touches, exit {ended}"] += 1
            if ended not in (0, 2, 74) or "Traceback" in said or ended and "error: " not in said:
                self.blame(what, f"ended with {ended}: {said[-2000:]}", folder)
            elif self.resumed_well(folder, what, without_samples="cannot write samples" in said):
                self.counts["runs equal after a failing touch"] += 1

    def small_disks(self, sizes):
        """A real full disk: a tmpfs, made larger before the run is resumed."""
        size = sum(p.stat().st_size for p in self.whole.rglob("*") if p.is_file())
        for part in sizes:
            folder = self.new_folder()
            folder.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(part * size)}", "fire", folder],
                              capture_output=True).returncode:
                folder.rmdir()
                print("no tmpfs can be mounted here: left out")
                return
            try:
                what = f"a disk of {part:.2f} of what a run needs"
                code, said = self.finish(self.run(folder / "run"))
                self.counts["full tmpfs"] += 1
                if code not in (2, 74) or "No space left" not in said:
                    self.blame(what, f"ended with {code}: {said[-2000:]}")
                subprocess.run(["mount", "-o", f"remount,size={4 * size}", folder], check=True)
                if self.resumed_well(folder / "run", what, without_samples="cannot write samples" in said):
                    self.counts["runs equal after a full tmpfs"] += 1
            finally:
                subprocess.run(["umount", folder], check=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--faults", type=int, help="so many failing touches, spread evenly (default: every one)")
    parser.add_argument("--disks", type=int, default=3, help="so many small disks that fill up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", action="store_true", help="write in a thread, as beside a GPU's steps")
    parser.add_argument("--data_dir", help="four cars (default: made)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.beside:
        scribe.BESIDE = ("cpu",)
    memory = "/dev/shm"  # kill -9 does not lose written data, so a real disk would only be slower
    roomy = os.path.isdir(memory) and shutil.disk_usage(memory).free > 2e9
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as base:
        base = Path(base)
        fire = Range(base, options.data_dir or conftest._data(base), options.seed)
        print(f"undisturbed: {fire.seconds:.1f} s, touches the disk {fire.touches} times", flush=True)
        start = time.monotonic()
        fire.kills(options.kills)
        count = fire.touches if options.faults is None else min(options.faults, fire.touches)
        fire.faults(sorted({1 + i * fire.touches // count for i in range(count)}))
        fire.small_disks([(i + 1) / (options.disks + 1) for i in range(options.disks)])
        print(*(f"{name}: {count}" for name, count in sorted(fire.counts.items())), sep="\n")
        print("killed in:", ", ".join(f"{phase} {fire.phases[phase]}" for phase in PHASES))
        print(f"wrong: {len(fire.wrong)}; {time.monotonic() - start:.0f} s")
    return 1 if fire.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
