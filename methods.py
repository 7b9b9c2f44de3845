"""The methods: what learning adds to the losses of `losses.LOSSES`, and `METHODS`, the table of them by --mode.

To add a method: write its class here and its line in `METHODS`. The command line, the loop, the devices and the
tests take it from there.
"""
import abc

import losses
from engine import distributed
from engine.arguments import integer
from errors import InputError
from models import PoseDiscriminator, ViewDiscriminator


class Method(abc.ABC):
    """What a way to train consists of.

    The iterations take turns: in those of the encoder the networks that make shapes learn from LOSSES and from
    `encoder_losses`, with the discriminator held; in the others they learn from LOSSES alone, and the
    discriminator learns from `discriminator_losses`.

    Attributes
    ----------
    title : in messages.
    help : of its mode, in a line.
    options : {name: keywords of argparse's add_argument} of those that are this method's own. Other methods, whose
        runs would not look at them, refuse them.
    best : {option: value} of --preset=best.
    has_prior : whether the code's Gaussian prior is among its losses.
    wants_other_views : whether the shapes of a step are drawn from random other cameras, too: `step.views[title]`.
    discriminator : nn.Module, or None: then every iteration learns from LOSSES alone.
    """

    title = help = None
    options = {}
    best = {}
    has_prior = True
    wants_other_views = False
    discriminator = None

    def __init__(self, options, num_poses, silhouette_size):
        """num_poses : pose bins of the training images; silhouette_size : side of the silhouettes in pixels."""

    @classmethod
    def check(cls, options, dataset, num_poses):
        """Refuse, with an InputError, options that this method cannot train with.

        num_poses : None as long as the files have not told.
        """

    @classmethod
    def weight(cls, loss, options):
        """The weight of a row of LOSSES."""
        return 0.0 if loss.name == "prior" and not cls.has_prior else loss.weight(options)

    @abc.abstractmethod
    def encoder_losses(self, step):
        """{name: scalar tensor}, each weighted by lambda_adv, of a `losses.Step`."""

    @abc.abstractmethod
    def discriminator_losses(self, step):
        """{name: scalar tensor} of a `losses.Step`; they must not reach the networks that make the shapes."""


class AutoEncoder(Method):
    """AE: every iteration learns from LOSSES alone. Each mode is this with --lambda_adv=0."""

    title = "AE"
    help = "the plain autoencoder"

    def encoder_losses(self, step):
        return {}

    def discriminator_losses(self, step):
        return {}


class FeatGAN(Method):
    """Adversarial domain confusion (Peng et al. 2020): a discriminator tells the pose bin from the code, and the
    encoder learns to leave nothing in the code that tells it."""

    title = "featGAN"
    help = "the model (featGAN; with --lambda_adv=0 the plain autoencoder)"
    options = {
        "confusion": dict(choices=("log2", "ce"), default="log2",
                          help="log2: as published; ce: cross-entropy to the uniform distribution"),
        "standardize_code": dict(action="store_true",
                                 help="standardise the code before the discriminator, which then learns"),
        "replay": dict(type=integer(0), default=0, metavar="N",
                       help="the discriminator also learns from the codes of its last N batches")}

    # What promised most in first trials on ShapeNet's shapes; benchmarks/claim.py is to decide it.
    best = {"lambda_pressure": 1e-4, "lambda_near": 0.5, "lambda_mirror": 0.5, "lambda_edge": 0.01,
            "lambda_front": 10.0, "lambda_Gprior": 0.0, "confusion": "ce", "standardize_code": True, "lr_D": 1e-3,
            "replay": 8, "D_always": True}

    def __init__(self, options, num_poses, silhouette_size):
        self.discriminator = PoseDiscriminator(num_poses, options.latent_dim, options.standardize_code,
                                               distributed.gathered,
                                               (options.replay, options.batch_size))
        self.confusion = options.confusion

    def encoder_losses(self, step):
        return {"confusion": losses.confusion_loss(self.discriminator(step.codes), self.confusion)}

    def discriminator_losses(self, step):
        codes = step.codes.detach()
        if self.discriminator.replays:
            return {"discriminator": self.discriminator.loss(codes, step.poses)}
        return {"discriminator": losses.discriminator_loss(self.discriminator(codes), step.poses)}


class ViewPriorLearning(Method):
    """VPL (Kato & Harada, CVPR 2019): a discriminator tells silhouettes from the input's own view from those of
    random other views, and encoder and decoder learn to make the others pass. It is told the view as its pose bin,
    which is the view itself where views are numbered."""

    title = "VPL"
    help = "View Prior Learning (VPL), the compared method"
    has_prior = False
    best = {"lambda_pressure": 1e-4}  # its paper has it; the program of Peng et al. leaves it out
    options = {"disc_width": dict(type=integer(1), default=128,
                                  help="channels of the first layer of VPL's discriminator; all others scale along")}
    wants_other_views = True

    def __init__(self, options, num_poses, silhouette_size):
        self.discriminator = ViewDiscriminator(num_poses, silhouette_size, options.disc_width)

    @classmethod
    def check(cls, options, dataset, num_poses):
        if num_poses is not None and options.channels not in (None, 1 + num_poses):
            raise InputError(f"--channels={options.channels}: VPL's discriminator sees a silhouette and a plane for "
                             f"each of the {num_poses} views of {dataset.name}, {1 + num_poses} in all")
        if dataset.num_views is None and options.batch_size < 2:
            raise InputError(f"--batch_size={options.batch_size}: the other views that VPL needs are those of other "
                             f"images of the batch, for {dataset.name} has no numbered views; give 2 or more")

    def encoder_losses(self, step):
        other = step.views[self.title]
        return {"view_prior": losses.real_or_fake(self.discriminator(other.rendered, other.poses), True)}

    def discriminator_losses(self, step):
        other = step.views[self.title]
        # In the published order, which the running statistics of its batch normalisation depend on.
        fake = self.discriminator(other.rendered.detach(), other.poses)
        real = self.discriminator(step.rendered.detach(), step.poses)
        return {"discriminator": (losses.real_or_fake(fake, False) + losses.real_or_fake(real, True)) / 2}


METHODS = {"train": FeatGAN, "trainCVPR19": ViewPriorLearning}


def refused(options, name):
    """A sentence if the option of this name, which was given, is another method's own; else None."""
    own = METHODS[options.mode]
    owners = [mode for mode, method in METHODS.items() if name in method.options]
    if owners and name not in own.options:
        return f"--{name} is of --mode={' and '.join(owners)}: {own.title} has no such thing"
    return None
