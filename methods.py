"""The training methods: what each adds to the losses of `losses.LOSSES`, and `METHODS`, the table of methods by --mode.

To add a method, write its class here and add its line to `METHODS`. The command line, the loop, the devices and the
tests read this table.
"""
import abc
import argparse

import losses
from engine import distributed
from engine.arguments import integer
from errors import InputError
from models import PoseDiscriminator, ViewDiscriminator


class Method(abc.ABC):
    """A training method.

    The iterations take turns. In the encoder's turns, encoder and decoder learn from LOSSES and from `encoder_losses`,
    and the discriminator is frozen. In the other turns, encoder and decoder learn from LOSSES only, and the
    discriminator learns from `discriminator_losses`.

    Attributes
    ----------
    title : its name in messages.
    help : one line of help for its mode.
    options : {name: keywords of argparse's add_argument} of the options that only this method has. Other methods
        refuse them.
    best : {option: value} of --preset=best.
    has_prior : whether the Gaussian prior of the codes is among its losses.
    wants_other_views : whether the shapes of a step are also drawn from random other cameras, as `step.views[title]`.
    discriminator : nn.Module, or None; without one, every iteration learns from LOSSES only.
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
        """Raise InputError for options with which this method cannot train.

        num_poses : the number of pose bins; None if it depends on files that have not been read yet.
        """

    @classmethod
    def weight(cls, loss, options):
        """The weight of a row of LOSSES in this method."""
        return 0.0 if loss.name == "prior" and not cls.has_prior else loss.weight(options)

    @abc.abstractmethod
    def encoder_losses(self, step):
        """The losses {name: scalar tensor} of a `losses.Step` for encoder and decoder; lambda_adv weights each."""

    @abc.abstractmethod
    def discriminator_losses(self, step):
        """The losses {name: scalar tensor} of a `losses.Step` for the discriminator. They must not have gradients in
        the encoder and decoder."""


class AutoEncoder(Method):
    """AE: every iteration learns from LOSSES only. Each mode trains this method if --lambda_adv=0."""

    title = "AE"
    help = "the plain autoencoder"

    def encoder_losses(self, step):
        return {}

    def discriminator_losses(self, step):
        return {}


class FeatGAN(Method):
    """Adversarial domain confusion (Peng et al. 2020): a discriminator predicts the pose bin from the code, and the
    encoder learns codes that do not reveal it."""

    title = "featGAN"
    help = "the model (featGAN; with --lambda_adv=0 the plain autoencoder)"
    options = {
        "confusion": dict(choices=("log2", "ce"), default="log2",
                          help="log2: as published; ce: cross-entropy to the uniform distribution"),
        "standardize_code": dict(action=argparse.BooleanOptionalAction, default=False,
                                 help="standardise the code before the discriminator, which can then learn"),
        "replay": dict(type=integer(0), default=0, metavar="N",
                       help="the discriminator also learns from the codes of its last N batches")}

    # Chosen by validation on ShapeNet's shapes; docs/results.md has the trials. Gradients and codes are kept short:
    # else a burst of the adversary's gradient silences units for good, and all images end as one shape.
    best = {"confusion": "ce", "standardize_code": True, "lr_D": 1e-3, "lambda_pressure": 1e-4, "lambda_front": 10.0,
            "lambda_flat": 1.0, "lambda_mirror": 0.5, "lambda_near": 1.0, "near_from": 1000, "lambda_Gprior": 1e-3,
            "clip_norm": 5.0}

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
    """VPL (Kato & Harada, CVPR 2019): a discriminator learns to distinguish silhouettes from the view of the input
    image and silhouettes from random other views. Encoder and decoder learn shapes whose other silhouettes look like
    the first kind. The discriminator is given the view as its pose bin; numbered views are their own bins."""

    title = "VPL"
    help = "View Prior Learning (VPL), the compared method"
    has_prior = False
    best = {"lambda_pressure": 1e-4}  # in the paper of VPL, but not in the program of Peng et al.
    options = {"disc_width": dict(type=integer(1), default=128,
                                  help="channels of the first layer of VPL's discriminator; the others scale with it")}
    wants_other_views = True

    def __init__(self, options, num_poses, silhouette_size):
        self.discriminator = ViewDiscriminator(num_poses, silhouette_size, options.disc_width)

    @classmethod
    def check(cls, options, dataset, num_poses):
        if num_poses is not None and options.channels not in (None, 1 + num_poses):
            raise InputError(f"--channels={options.channels}: VPL's discriminator takes a silhouette and one plane for "
                             f"each of the {num_poses} views of {dataset.name}, {1 + num_poses} in all")
        if dataset.num_views is None and options.batch_size < 2:
            raise InputError(f"--batch_size={options.batch_size}: {dataset.name} has no numbered views, so VPL takes "
                             "other views from the other images of the batch; give 2 or more")

    def encoder_losses(self, step):
        other = step.views[self.title]
        return {"view_prior": losses.real_or_fake(self.discriminator(other.rendered, other.poses), True)}

    def discriminator_losses(self, step):
        other = step.views[self.title]
        # In the published order: the running statistics of the batch normalisation depend on it.
        fake = self.discriminator(other.rendered.detach(), other.poses)
        real = self.discriminator(step.rendered.detach(), step.poses)
        return {"discriminator": (losses.real_or_fake(fake, False) + losses.real_or_fake(real, True)) / 2}


METHODS = {"train": FeatGAN, "trainCVPR19": ViewPriorLearning}


def refused(options, name):
    """An error message if the given option `name` belongs to another method, else None."""
    own = METHODS[options.mode]
    owners = [mode for mode, method in METHODS.items() if name in method.options]
    if owners and name not in own.options:
        return f"--{name} belongs to --mode={' and '.join(owners)}: {own.title} has no such option"
    return None
