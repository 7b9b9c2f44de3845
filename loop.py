"""The loop of a training run: it feeds batches to the trainer, and writes records, pictures and checkpoints."""
import contextlib
import math
import os
import signal

import numpy as np

from engine import checkpoints, dashboard, distributed, runs
from engine.divergence import Watch
from engine.feed import open_feed
from engine.monitor import Monitor
from engine.scribe import Scribe
from engine.visdom_server import VisdomServer
from errors import Divergence, InputError
from metrics import measures
from metrics.colours import WHILE_TRAINING
from pictures import training_sheet, write_obj
from scoring import score
from training import learning_rate


class Sampler:
    """The image numbers of each step: an endless sequence of shuffled epochs, cut into batches.

    They depend only on the seed and the step, so that a resumed run gets the same batches.
    """

    def __init__(self, count, batch_size, seed, objects=None):
        """objects : (count,) int, the object of each image, or None. If given, batches consist of pairs of images of
        one object. An epoch has every image once; if an object has an odd number, one of its images comes twice."""
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.groups = None
        if objects is not None:
            order = np.argsort(objects, kind="stable")
            self.groups = np.split(order, np.flatnonzero(np.diff(np.asarray(objects)[order])) + 1)
            self.count = sum(len(group) + len(group) % 2 for group in self.groups)
        self._epoch = self._order = None

    def batch(self, step):
        first = (step - 1) * self.batch_size
        return np.concatenate([self._shuffled(epoch)[a:b] for epoch, a, b in self._pieces(first)])

    def _pieces(self, first):
        end = first + self.batch_size
        while first < end:
            epoch, a = divmod(first, self.count)
            b = min(self.count, a + end - first)
            yield epoch, a, b
            first += b - a

    def _shuffled(self, epoch):
        if epoch != self._epoch:
            self._epoch = epoch
            rng = np.random.default_rng([self.seed, epoch])
            self._order = rng.permutation(self.count) if self.groups is None else self._pairs(rng)
        return self._order

    def _pairs(self, rng):
        pairs = []
        for group in self.groups:
            mixed = rng.permutation(group)
            pairs.append(np.concatenate([mixed, mixed[:len(mixed) % 2]]).reshape(-1, 2))
        return rng.permutation(np.concatenate(pairs)).reshape(-1)


class Loop:
    """Steps, records and checkpoints of one run.

    Parameters
    ----------
    constant : entries that are the same in every checkpoint of the run.
    resumed : the checkpoint to resume from, or None.
    """

    def __init__(self, trainer, data, validation, constant, resumed):
        self.trainer, self.data, self.validation = trainer, data, validation
        self.options, self.constant = trainer.options, constant
        self.folder = self.options.ckpt_dir
        self.first, self.best, elapsed, skipped, unrecorded = self.options.batches_done, -math.inf, 0.0, 0, {}
        if resumed:
            try:
                trainer.load(resumed)
                runs.set_rng_state(resumed["rng"])
                self.first, self.best = resumed["step"], resumed["best"]
                elapsed, skipped = resumed["elapsed"], resumed["skipped"]
                unrecorded = {k: float(v) for k, v in resumed.get("losses", {}).items()}  # absent in older checkpoints
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise InputError(f"cannot resume from the checkpoint in {self.folder}: "
                                 f"{type(error).__name__}: {str(error).splitlines()[0]}") from None
        self.saved = bool(resumed)
        self.watch = Watch(self.options.on_nan, skipped, unrecorded)
        self.main = distributed.main()
        records = os.path.join(self.folder, runs.METRICS) if self.main else os.devnull
        self.monitor = Monitor(records, self.first, self.options.n_iters, elapsed)
        self.mark = self.monitor.elapsed, self.first
        self.scribe = Scribe(trainer.device)
        self._say_what(resumed)

    def _say_what(self, resumed):
        data, modules = self.data, self.trainer.modules.values()
        parameters = sum(p.numel() for m in modules for p in m.parameters())
        kind = "resuming" if resumed else "nothing to resume: a new run" if self.options.resume else \
            f"training from iteration {self.first} on" if self.first else "training"
        self.monitor.say(f"{kind} in {self.folder}: {', '.join(data.class_name(c) for c in data.class_ids)}; "
                         f"{len(data)} images of {data.num_objects} objects; {parameters / 1e6:.1f} M parameters; "
                         f"{self.trainer.device}")

    def run(self, interruption):
        """Train to the last step, or to the end of the step in which a signal comes. Returns the exit code."""
        o = self.options
        if self.first >= o.n_iters:
            self.monitor.say(f"the run already has {self.first} iterations; to continue it, give a higher --n_iters")
            return 0
        sampler = Sampler(len(self.data), o.batch_size, o.seed,
                          self.data.all_objects().numpy() if o.pairs == 2 else None)
        sheet = self.validation.gather(self.validation.spread(8)[1])
        feed = open_feed(self.data, sampler, self.trainer.device, distributed.part(o.batch_size), o.data_on)
        if feed.told:
            self.monitor.say(feed.told)
        with dashboard.shown(o.ckpt_dir, o.sample_dir, o.visdom_env, VisdomServer.of(o)) \
                if self.main else contextlib.nullcontext(), contextlib.closing(feed), \
                contextlib.closing(self.scribe):
            interruption.stepping = True
            for step in range(self.first + 1, o.n_iters + 1):
                last = step == o.n_iters
                try:
                    self.watch.add(step, *self.trainer.step(step, feed.batch(step)))
                    stop = distributed.highest(int(interruption.wanted or 0))  # all processes stop, or none
                    self._after(step, last, sheet, stop)
                except Divergence as error:
                    saved = self.saved or self.best > -math.inf
                    raise Divergence(f"step {error.step or step}: {error}; " + (
                        f"the last good checkpoint stays in {self.folder}" if saved
                        else "there was no checkpoint yet")) from None
                if stop and not last:
                    self.scribe.wait()
                    self.monitor.say(f"{signal.Signals(stop).name}: stopped and saved after step {step}; continue "
                                     "with --resume")
                    return 75
        skipped = f"; {self.watch.skipped} steps skipped, not finite" if self.watch.skipped else ""
        self.monitor.say(f"done: best validation IoU {self.best:.4f}{skipped}; {self.folder}")
        return 0

    def _after(self, step, last, sheet, stop):
        """After a step, do what is due: check the losses, record, draw, validate, save."""
        o, record, state, shapes, better = self.options, {}, None, None, False
        log, draw, check = (last or step % every == 0 for every in (o.log_step, o.sample_step, o.ckpt_step))
        if log or draw or check or stop or self.trainer.device.type == "cpu":
            losses_now = self.watch.read()
        if log:
            record.update(self.watch.losses, lr=learning_rate(step, o, o.lr), images_per_s=self._images_per_s(step))
            if o.lr_D and "D" in self.trainer.rates:
                record["lr_D"] = learning_rate(step, o, o.lr_D)
            self.watch.losses.clear()
            if self.watch.skipped:
                record["skipped"] = self.watch.skipped
        if draw and self.main:
            shapes = self.trainer.model.predict(sheet.images).cpu()
        if check:
            state, better = self._validate(step, record)
        elif stop:
            state = self._state(step)
        if (record or state or shapes) and self.main:
            self.scribe.do(self._write, step, self.monitor.elapsed, record, sheet, shapes, state, better)
        if check:
            self.mark = self.monitor.elapsed, step  # images_per_s does not count the time of validation
            colours = {"val PSNR": record["val_psnr_own"]} if "val_psnr_own" in record else {}
            self.monitor.progress(step, {"loss": losses_now["silhouette"], "val IoU": record["val_iou"], **colours,
                                         "val MMD": record["val_mmd"], "inside out": record["val_inside_out"]})
        elif step % (10 * o.log_step) == 0 and not stop:
            self.monitor.progress(step, {"loss": losses_now["silhouette"]})

    def _images_per_s(self, step):
        (time, before), now = self.mark, self.monitor.elapsed
        self.mark = now, step
        return (step - before) * self.options.batch_size / max(now - time, 1e-9)

    def _state(self, step):
        """A checkpoint: everything on which later steps depend."""
        distributed.average_statistics(self.trainer.modules.values())
        self.trainer.check_finite()
        return self.scribe.copied({"step": step, **self.constant, "best": self.best, "elapsed": self.monitor.elapsed,
                "skipped": self.watch.skipped, "losses": dict(self.watch.losses), "rng": runs.rng_state(),
                **self.trainer.state()})

    def _validate(self, step, record):
        """Validate and add the figures to the record. Returns (checkpoint, whether it is the best so far)."""
        state = self._state(step)
        scores = score(self.trainer.model, self.validation)
        record.update(val_iou=float(np.mean(list(scores["iou"].values()))),
                      val_mmd=float(np.mean(list(scores["mmd"].values()))), val_iou_of=scores["iou"])
        record["val_inside_out"] = float(np.mean(list(scores["inside_out"].values())))
        for name in WHILE_TRAINING:
            if name in scores:
                record[f"val_{name}"] = float(np.mean(list(scores[name].values())))
        for class_id, spread in scores["code_spread"].items():
            if spread < measures.COLLAPSED and self.main:
                name = self.validation.class_name(class_id)
                self.monitor.say(f"step {step}: collapsed: all validation images of {name} "
                                 "have the same code and shape, so an MMD near 0 means nothing")
        better = record["val_iou"] > self.best
        self.best = state["best"] = max(record["val_iou"], self.best)
        return state, better

    def _write(self, step, time, record, sheet, shapes, state, better):
        """Write the pictures, the record and the checkpoint, if there are any. The order matters: when a record names a
        checkpoint as the best, that file is there; and a checkpoint is named the last one only after all records up to
        its step are on the disk."""
        if shapes:
            record.update(_write_samples(self.trainer.dataset, self.options.sample_dir, step, sheet, shapes))
        if state:
            checkpoints.write_next(self.folder, state)
            if better:
                checkpoints.name_best(self.folder)
        if record:
            self.monitor.record(step, record, time)
        if state:
            self.monitor.sync()
            checkpoints.name_last(self.folder, step, self.options.keep_last)


def _write_samples(dataset, folder, step, batch, prediction):
    """Write a picture and a mesh of the current shapes. If that fails, print a warning: the run goes on."""
    names = {"picture": f"{step:05d}.png", "mesh": f"{step:05d}.obj"}
    try:
        training_sheet(dataset, batch, prediction).save(os.path.join(folder, names["picture"]))
        write_obj(os.path.join(folder, names["mesh"]), dataset, prediction.vertices[0], prediction.faces,
                  textures=None if prediction.textures is None else prediction.textures[0])
    except OSError as error:
        print(f"warning: cannot write samples into {folder}: {error.strerror}")
        return {}
    return names
