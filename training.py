"""`--mode=train` and `trainCVPR19`: one loop; the adversarial method is a part of it."""
import contextlib
import math
import os
import pickle
import signal
from dataclasses import dataclass

import numpy as np
import torch

import dashboard
import losses
import runs
from datasets import DATASETS
from errors import Divergence, InputError
from inference import Model, score
from models import RESNET_SIZE, PoseDiscriminator, ViewDiscriminator
from monitor import Monitor
from visualization import training_sheet, write_obj


@dataclass
class Shown:
    """What the adversarial part of a step may look at."""
    codes: torch.Tensor         # (B, latent_dim)
    poses: torch.Tensor         # (B,) pose bins
    rendered: torch.Tensor      # (B, H, W) silhouettes from the inputs' cameras
    other_poses: torch.Tensor   # (B,) bins of random other cameras, or None
    other: torch.Tensor         # (B, H, W) silhouettes from those, or None


class FeatGAN:
    """Adversarial domain confusion (Peng et al. 2020): a discriminator tells the pose bin from the
    code, and the encoder learns to leave it nothing to tell."""

    adversarial_name = "confusion"
    wants_other_views = False
    has_prior = True

    def __init__(self, options, num_poses, silhouette_size):
        self.discriminator = PoseDiscriminator(num_poses, options.latent_dim,
                                               options.standardize_code)
        self.confusion = options.confusion

    def discriminator_loss(self, shown):
        """The discriminator learns on codes that do not learn."""
        return losses.discriminator_loss(self.discriminator(shown.codes.detach()), shown.poses)

    def adversarial_loss(self, shown):
        return losses.confusion_loss(self.discriminator(shown.codes), self.confusion)


class ViewPriorLearning:
    """VPL (Kato & Harada, CVPR 2019): a discriminator tells silhouettes from the input's own view from
    those of random other views, and encoder and decoder learn to make the others pass. It is told the view
    as its pose bin, which is the view itself where views are numbered."""

    adversarial_name = "view_prior"
    wants_other_views = True
    has_prior = False

    def __init__(self, options, num_poses, silhouette_size):
        self.discriminator = ViewDiscriminator(num_poses, silhouette_size)

    def discriminator_loss(self, shown):
        real = self.discriminator(shown.rendered.detach(), shown.poses)
        fake = self.discriminator(shown.other.detach(), shown.other_poses)
        return (losses.real_or_fake(fake, False) + losses.real_or_fake(real, True)) / 2

    def adversarial_loss(self, shown):
        return losses.real_or_fake(self.discriminator(shown.other, shown.other_poses), True)


METHODS = {"train": FeatGAN, "trainCVPR19": ViewPriorLearning}


class Sampler:
    """Image numbers of step 1, 2, ...: one endless run of shuffled epochs, cut into batches.

    A pure function of the seed and the step, so that a resumed run sees what it would have seen.
    """

    def __init__(self, count, batch_size, seed):
        self.count, self.batch_size, self.seed = count, batch_size, seed
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
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self._order


def learning_rate(step, options, base):
    """From iteration decay_batch on, times decay_order every decay_every iterations."""
    if step < options.decay_batch:
        return base
    return base * options.decay_order ** ((step - options.decay_batch) // options.decay_every + 1)


def check_options(options):
    """Refuse, before anything is loaded, what cannot train."""
    if options.lambda_adv > 0 and options.G_every < 2:
        raise InputError(f"--G_every={options.G_every} with --lambda_adv={options.lambda_adv:g}: every "
                         "iteration would be the encoder's and the discriminator would never learn; "
                         "give --G_every=2 or more, or --lambda_adv=0 for the plain autoencoder")
    if options.visdom_env is not None:
        dashboard.check(options.visdom_env, options.visdom_port)
    dataset = DATASETS[options.dataset]
    if options.mode == "trainCVPR19":
        check_channels(options, dataset.count_poses(vars(options)))
        if dataset.num_views is None and options.batch_size < 2:
            raise InputError(f"--batch_size={options.batch_size}: the other views that VPL needs are those of other "
                             f"images of the batch, for {options.dataset} has no numbered views; give 2 or more")
    if options.img_size not in dataset.img_sizes:
        raise InputError(f"--img_size={options.img_size}: images of {options.dataset} are "
                         f"{' or '.join(map(str, dataset.img_sizes))} px")
    if options.img_size == RESNET_SIZE and options.latent_dim != 8 * options.enc_width:
        raise InputError(f"--latent_dim={options.latent_dim}: the code of the ResNet that takes {RESNET_SIZE} px images "
                         f"is its last feature, 8 times --enc_width={options.enc_width}: {8 * options.enc_width}")
    if options.resnet_weights and options.img_size != RESNET_SIZE:
        raise InputError(f"--resnet_weights={options.resnet_weights} is for images of {RESNET_SIZE} px, whose encoder "
                         f"is a ResNet; here --img_size={options.img_size}")


def check_channels(options, num_poses):
    """num_poses : None where the files will tell."""
    if num_poses is not None and options.channels not in (None, 1 + num_poses):
        raise InputError(f"--channels={options.channels}: VPL's discriminator sees a silhouette and a plane for each "
                         f"of the {num_poses} views of {options.dataset}, {1 + num_poses} in all")


def load_resnet(encoder, path):
    """torchvision's published file; tensors are all that is read from it."""
    try:
        encoder.load_torchvision(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise InputError(f"--resnet_weights={path} cannot be read: {error.strerror}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"--resnet_weights={path} does not hold torchvision's weights of a ResNet-18: "
                         f"{(str(error) or type(error).__name__).splitlines()[0][:200]}") from None


class Trainer:
    """Networks, optimisers and the step; nothing of files."""

    def __init__(self, options, device, num_poses=None):
        """num_poses : pose bins of the training data, where the options do not tell."""
        self.options, self.device = options, device
        self.model = Model(vars(options)).to(device)
        self.dataset = self.model.dataset
        silhouette_size = self.dataset.silhouette_size(options.img_size)
        self.renderer = self.dataset.renderer(silhouette_size)
        self.topology = losses.MeshTopology(self.model.faces).to(device)
        self.method = None
        if options.resnet_weights:
            load_resnet(self.model.encoder, options.resnet_weights)
        self.modules = self.model.modules()
        method = METHODS[options.mode]
        self.prior = options.lambda_Gprior if method.has_prior else 0.0
        if options.lambda_adv > 0:
            num_poses = num_poses or self.dataset.count_poses(vars(options))
            if options.mode == "trainCVPR19":
                check_channels(options, num_poses)
            self.method = method(options, num_poses, silhouette_size)
            self.modules["D"] = self.method.discriminator.to(device)
        rates = {"E": options.lr, "G": options.lr, "D": options.lr_D or options.lr}
        self.optimizers = {name: torch.optim.Adam(module.parameters(), lr=rates[name], fused=True)
                           for name, module in self.modules.items()}
        self.rates = rates

    def step(self, step, batch):
        """One iteration on a `Batch`; returns {loss name: scalar tensor}."""
        o = self.options
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = learning_rate(step, o, self.rates[name])
            optimizer.zero_grad(set_to_none=True)
        images = batch.images.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=o.amp):
            codes = self.model.encoder(images)
            vertices = self.model.decoder(codes)
        codes, vertices = codes.float(), vertices.float()
        shown = self._render(vertices, codes, batch)
        values = {"silhouette": losses.silhouette_loss(shown.rendered, batch.silhouettes.to(self.device)),
                  "smoothness": losses.smoothness_loss(vertices, self.topology),
                  "prior": losses.gaussian_prior(codes)}
        total = (values["silhouette"] + o.lambda_smth * values["smoothness"]
                 + self.prior * values["prior"])
        if o.lambda_Lap:
            values["laplacian"] = losses.laplacian_loss(vertices, self.topology)
            total = total + o.lambda_Lap * values["laplacian"]
        if o.lambda_edge:
            values["edge"] = losses.edge_length_loss(vertices, self.topology)
            total = total + o.lambda_edge * values["edge"]
        encoders_turn = self.method and step % o.G_every == 0
        if encoders_turn:
            with _frozen(self.modules["D"]):
                name = self.method.adversarial_name
                values[name] = self.method.adversarial_loss(shown)
                total = total + o.lambda_adv * values[name]
                total.backward()
        else:
            total.backward()
        self.optimizers["E"].step()
        self.optimizers["G"].step()
        if self.method and not encoders_turn:
            values["discriminator"] = self.method.discriminator_loss(shown)
            values["discriminator"].backward()
            self.optimizers["D"].step()
        return {k: v.detach() for k, v in values.items()}

    def _render(self, vertices, codes, batch):
        """Silhouettes from the inputs' views and, for a method that wants them, from others, drawn in
        one call."""
        cameras, poses, others = batch.cameras.to(self.device), batch.poses.to(self.device), None
        seen_from = [cameras]
        if self.method and self.method.wants_other_views:
            other_cameras, others = self.dataset.other_views(cameras, poses)
            seen_from.append(other_cameras)
        screens = torch.cat([self.dataset.project(vertices, c) for c in seen_from])
        images = self.renderer.render_silhouettes(screens, self.model.faces).split(len(cameras))
        return Shown(codes, poses, images[0], others, None if others is None else images[1])

    def state(self):
        return {"models": {k: m.state_dict() for k, m in self.modules.items()},
                "optimizers": {k: m.state_dict() for k, m in self.optimizers.items()}}

    def load(self, state):
        for name, module in self.modules.items():
            module.load_state_dict(state["models"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])

    def check_finite(self):
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                if not torch.isfinite(value).all():
                    raise Divergence(f"weight {key} of {name} is not finite")


@contextlib.contextmanager
def _frozen(module):
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class Interrupted:
    """SIGTERM and SIGINT become a wish to stop after the step; a second SIGINT stops at once."""

    def __init__(self):
        self.wanted = None

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number, _frame):
        if self.wanted == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.wanted = signal.Signals(number)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(options, device):
    """Train until `n_iters`; returns the exit code: 0, or 75 if asked to stop on the way."""
    check_options(options)
    if options.resume and not os.path.isdir(options.ckpt_dir):
        options.resume = False  # nothing there yet: a new run
    described = dict(vars(options))
    runs.held(options.ckpt_dir, options.resume)
    runs.seed_everything(options.seed)

    dataset = DATASETS[options.dataset]
    data = dataset.open(described, "train", trainViews=options.trainViews, seed=options.data_seed)
    validation = dataset.open(described, "val", seed=options.data_seed)
    trainer = Trainer(options, device, data.num_poses)
    # Everything that was given has been read; from here on files are written.
    resumed = runs.start(options.ckpt_dir, described, options.resume, options.sample_dir)
    first, best, elapsed = 0, -math.inf, 0.0
    if resumed:
        trainer.load(resumed)
        runs.set_rng_state(resumed["rng"])
        first, best, elapsed = resumed["step"], resumed["best"], resumed["elapsed"]
    monitor = Monitor(os.path.join(options.ckpt_dir, runs.METRICS), first, options.n_iters, elapsed)
    parameters = sum(p.numel() for m in trainer.modules.values() for p in m.parameters())
    monitor.say(f"{'resuming' if resumed else 'training'} in {options.ckpt_dir}: "
                f"{', '.join(data.class_name(c) for c in data.class_ids)}; {len(data)} images of "
                f"{data.num_objects} objects; {parameters / 1e6:.1f} M parameters; {device}")
    if first >= options.n_iters:
        monitor.say(f"the run has its {first} iterations already; a higher --n_iters goes on")
        return 0
    sampler = Sampler(len(data), options.batch_size, options.seed)
    sheet = _sheet_images(validation)
    mark, mark_step = monitor.elapsed, first

    def checkpoint(step):
        trainer.check_finite()
        state = {"step": step, "options": described, "best": best, "elapsed": monitor.elapsed,
                 "rng": runs.rng_state(), **trainer.state()}
        return state

    with Interrupted() as interrupted, dashboard.shown(options):
        for step in range(first + 1, options.n_iters + 1):
            try:
                values = trainer.step(step, data.gather(sampler.batch(step), step))
                if device.type == "cpu" or step % options.log_step == 0 or step == options.n_iters:
                    values = {k: float(v) for k, v in values.items()}
                    bad = [k for k, v in values.items() if not math.isfinite(v)]
                    if bad:
                        raise Divergence(f"the {bad[0]} loss is {values[bad[0]]}")
                last = step == options.n_iters
                record = {}
                if step % options.log_step == 0 or last:
                    now = monitor.elapsed
                    record = {**values, "lr": learning_rate(step, options, options.lr),
                              "images_per_s": (step - mark_step) * options.batch_size / max(now - mark, 1e-9)}
                    mark, mark_step = now, step
                if step % options.sample_step == 0 or last:
                    record.update(_write_samples(trainer, step, sheet))
                if step % options.ckpt_step == 0 or last:
                    state = checkpoint(step)
                    scores = score(trainer.model, validation)
                    val_iou = float(np.mean(list(scores["iou"].values())))
                    record.update(val_iou=val_iou, val_mmd=float(np.mean(list(scores["mmd"].values()))),
                                  val_iou_of=scores["iou"])
                    if val_iou > best:
                        best = state["best"] = val_iou
                        runs.save_best(options.ckpt_dir, state)
                if record:
                    monitor.record(step, record)
                if step % options.ckpt_step == 0 or last:
                    runs.save_last(options.ckpt_dir, state)
                    mark = monitor.elapsed  # the rate is that of training alone
                    monitor.progress(step, {"loss": values["silhouette"], "val IoU": record["val_iou"],
                                            "val MMD": record["val_mmd"]})
                elif interrupted.wanted:
                    runs.save_last(options.ckpt_dir, checkpoint(step))
                elif step % (10 * options.log_step) == 0:
                    monitor.progress(step, {"loss": values["silhouette"]})
            except Divergence as error:
                raise Divergence(f"step {step}: {error}; the last good checkpoint stays in "
                                 f"{options.ckpt_dir}") from None
            if interrupted.wanted and not last:
                monitor.say(f"{interrupted.wanted.name}: stopped and saved after step {step}; go on with "
                            "--resume")
                return 75
    monitor.say(f"done: best validation IoU {best:.4f}; {options.ckpt_dir}")
    return 0


def _sheet_images(validation, count=8):
    """Some validation images, of objects and views spread evenly."""
    objects = np.linspace(0, validation.num_objects - 1, min(count, validation.num_objects)).astype(int)
    views = len(validation) // validation.num_objects
    return validation.gather([o * views + (7 * i) % views for i, o in enumerate(objects)])


def _write_samples(trainer, step, batch):
    """Picture and mesh of the moment; a disk that is full costs the picture, not the run."""
    folder = trainer.options.sample_dir
    names = {"picture": f"{step:05d}.png", "mesh": f"{step:05d}.obj"}
    prediction = trainer.model.predict(batch.images)
    try:
        training_sheet(trainer.dataset, batch, prediction).save(os.path.join(folder, names["picture"]))
        write_obj(os.path.join(folder, names["mesh"]), trainer.dataset, prediction.vertices[0],
                  prediction.faces)
    except OSError as error:
        print(f"warning: cannot write samples into {folder}: {error.strerror}")
        return {}
    return names
