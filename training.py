"""`--mode=train` and `trainCVPR19`: one loop; the adversarial method is a part of it."""
import contextlib
import functools
from dataclasses import dataclass

import torch

import dashboard
import losses
import runs
import weights
from datasets import DATASETS
from engine import checkpoints, distributed, lock
from engine.divergence import any_bad, gradient_norms
from engine.graphs import Captured
from engine.interruption import Interruption
from errors import Divergence, InputError
from inference import Model
from loop import Loop, learning_rate
from models import RESNET_SIZE, PoseDiscriminator, ViewDiscriminator


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
        self.discriminator = PoseDiscriminator(num_poses, options.latent_dim, options.standardize_code,
                                               distributed.gathered)
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
    if options.batch_size % distributed.size():
        raise InputError(f"--batch_size={options.batch_size} cannot be shared out equally to {distributed.size()} "
                         "processes: give a multiple of their number")
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


def use_graphs(options, device):
    """Whether steps are recorded as CUDA graphs."""
    if options.cuda_graph == "on" and (device.type != "cuda" or distributed.size() > 1):
        raise InputError(f"--cuda_graph=on: steps are recorded on one GPU, by one process; here on {device}, by "
                         f"{distributed.size()}; give auto or off")
    return options.cuda_graph != "off" and device.type == "cuda" and distributed.size() == 1


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
        self.modules = self.model.modules()
        method = METHODS[options.mode]
        self.prior = options.lambda_Gprior if method.has_prior else 0.0
        if options.lambda_adv > 0:
            num_poses = num_poses or self.dataset.count_poses(vars(options))
            if options.mode == "trainCVPR19":
                check_channels(options, num_poses)
            self.method = method(options, num_poses, silhouette_size)
            self.modules["D"] = self.method.discriminator.to(device)
        if distributed.size() > 1 and device.type == "cuda":  # on CPUs each process normalises its own part
            self.modules.update({name: torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
                                 for name, module in self.modules.items()})
        rates = {"E": options.lr, "G": options.lr, "D": options.lr_D or options.lr}
        on_gpu = device.type == "cuda"  # there a graph reads the rates where they are
        self.optimizers = {name: torch.optim.Adam(
            module.parameters(), lr=torch.tensor(rates[name], device=device) if on_gpu else rates[name],
            fused=True, capturable=on_gpu) for name, module in self.modules.items()}
        self.rates = rates
        # By whether it is the encoder's turn.
        self._turns = {turn: functools.partial(self._turn, turn) for turn in (False, True)}
        if use_graphs(options, device):
            self._turns = {turn: Captured(function) for turn, function in self._turns.items()}

    def step(self, step, batch):
        """One iteration on a `Batch`; returns {loss name: scalar tensor} and {network: norm of its gradient}.

        If one of these is not finite, networks and optimisers are left as they were.
        """
        for name, optimizer in self.optimizers.items():
            group, rate = optimizer.param_groups[0], learning_rate(step, self.options, self.rates[name])
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate
        encoders_turn = self.method is not None and step % self.options.G_every == 0
        return self._turns[encoders_turn](*self._inputs(batch))

    def _inputs(self, batch):
        """What a turn needs, on the device; random other views are drawn here for a method that wants them."""
        batch = batch.to(self.device)
        others = ()
        if self.method and self.method.wants_other_views:
            # For the whole batch, as one process would.
            drawn = self.dataset.other_views(*map(distributed.gathered, (batch.cameras, batch.poses)))
            others = (whole[distributed.part(len(whole))] for whole in drawn)
        return batch.images, batch.silhouettes, batch.cameras, batch.poses, *others

    def _turn(self, encoders_turn, images, silhouettes, cameras, poses, other_cameras=None, other_poses=None):
        """The work of a step: nothing in it goes between the device and the host."""
        o = self.options
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        # Of batch normalisation, which the forward pass already changes.
        statistics = [(b, b.clone()) for m in self.modules.values() for b in m.buffers()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=o.amp, cache_enabled=False):
            codes = self.model.encoder(images)
            vertices = self.model.decoder(codes)
        codes, vertices = codes.to(images.dtype), vertices.to(images.dtype)
        shown = self._render(vertices, codes, cameras, poses, other_cameras, other_poses)
        values = {"silhouette": losses.silhouette_loss(shown.rendered, silhouettes),
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
        if encoders_turn:
            with _frozen(self.modules["D"]):
                name = self.method.adversarial_name
                values[name] = self.method.adversarial_loss(shown)
                total = total + o.lambda_adv * values[name]
                self._backward(total)
        else:
            self._backward(total)
        learning = {"E": self.modules["E"], "G": self.modules["G"]}
        if self.method and not encoders_turn:
            values["discriminator"] = self.method.discriminator_loss(shown)
            self._backward(values["discriminator"])
            learning["D"] = self.modules["D"]
        values = distributed.average(learning.values(), values)
        norms = gradient_norms(learning)
        bad = any_bad(values, norms)
        for name in learning:
            self.optimizers[name].found_inf = bad  # 1: the fused step changes nothing, without a wait for it
            self.optimizers[name].step()
        for statistic, before in statistics:
            statistic.copy_(torch.where(bad > 0, before, statistic))
        return {k: v.detach() for k, v in values.items()}, norms

    def _backward(self, loss):
        """A loss that is not finite teaches nothing; only on the CPU does it cost nothing to look, and only alone
        does nobody wait for this one."""
        if self.device.type != "cpu" or distributed.size() > 1 or loss.isfinite():
            loss.backward()

    def _render(self, vertices, codes, cameras, poses, other_cameras, other_poses):
        """Silhouettes from the inputs' views and, if there are any, from others, drawn in one call."""
        seen_from = [cameras] if other_cameras is None else [cameras, other_cameras]
        screens = torch.cat([self.dataset.project(vertices, c) for c in seen_from])
        images = self.renderer.render_silhouettes(screens, self.model.faces).split(len(cameras))
        return Shown(codes, poses, images[0], other_poses, None if other_poses is None else images[1])

    def state(self):
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        for state in optimizers.values():  # a number on every device
            state["param_groups"] = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
        return {"models": {k: m.state_dict() for k, m in self.modules.items()}, "optimizers": optimizers}

    def load(self, state):
        for name, module in self.modules.items():
            module.load_state_dict(state["models"][name])
            optimizer = self.optimizers[name]
            own = {key: optimizer.param_groups[0][key] for key in ("lr", "capturable")}  # those of this device
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.param_groups[0].update(own)
            for parameter, kept in optimizer.state.items():
                for key, value in kept.items():
                    if value.shape == parameter.shape:  # the fused step goes by memory order, not by index
                        kept[key] = torch.empty_like(parameter).copy_(value)

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


def train(options, device, defaults=None):
    """Train until `n_iters`; returns the exit code: 0, or 75 if asked to stop on the way.

    defaults : values of options that are not given, for runs that began before there was one.
    """
    check_options(options)
    main = distributed.main()
    with Interruption() as interruption:
        described = dict(vars(options))
        if main:
            lock.check(options.ckpt_dir)
        begun = set(runs.held(options.ckpt_dir, options.resume)) - {runs.METRICS}
        dataset = DATASETS[options.dataset]
        if not begun and weights.given(options):  # tried before data are unpacked, which may take minutes
            weights.start_from(Model(vars(options)).modules(), options, dataset)
        runs.seed_everything(options.seed)
        with distributed.main_first():
            data = dataset.open(described, "train", trainViews=options.trainViews, seed=options.data_seed)
            validation = dataset.open(described, "val", seed=options.data_seed)
        trainer = Trainer(options, device, data.num_poses)
        if not begun:
            weights.start_from(trainer.modules, options, dataset)
        distributed.same_as_main(trainer.modules.values())
        seen = {"train": runs.describe_data(data), "val": runs.describe_data(validation)}
        # Everything that was given has been read; from here on files are written.
        with lock.held(options.ckpt_dir) if main else contextlib.nullcontext():
            with distributed.main_first():
                if main:
                    resumed = runs.start(options.ckpt_dir, described, options.resume, options.sample_dir, seen,
                                         defaults)
                else:
                    resumed = checkpoints.load_last(options.ckpt_dir) if begun else None
            loop = Loop(trainer, data, validation, {"options": described, "data": seen}, resumed)
            return loop.run(interruption)
