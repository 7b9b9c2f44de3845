"""The training modes, `--mode=train` and `--mode=trainCVPR19`: check the options, open the data, train."""
import argparse
import contextlib
import os

import torch

import synthetic
from datasets import DATASETS, DEFAULT
from engine import checkpoints, devices, distributed, lock, runs, weights
from engine.arguments import Mode, integer, need, number
from engine.interruption import Interruption
from engine.visdom_server import SERVER, VisdomServer
from errors import InputError
from inference import Model, load_template
from loop import Loop
from methods import METHODS
from models import RESNET_SIZE
from training import Trainer

COLOURS = {
    "texture": dict(choices=("none", "faces", "cubes"), default="none", help=(
        "shapes in colours, too: one a face, or a cube of TEXTURE_SIZE^3 texels a face; in other modes, the run must "
        "have them")),
    "texture_size": dict(type=integer(2), default=4, help="cubes: texels along each axis"),
    "texture_dim": dict(type=integer(0), default=64, help=(
        "length of the colour code, which is read from the picture beside the shape code; 0: colours are read from "
        "the shape code")),
    "texture_to_shape": dict(action="store_true", help="the colours' gradient moves the vertices, too"),
    "texture_mirror": dict(action="store_true", help=(
        "both sides of the mirror plane have the same colours; the dataset tells the plane, or the mean of the "
        "training grids does")),
    "lambda_colour": dict(type=number(0), default=1.0, help="TEXTURE: weight of the colours inside both silhouettes"),
    "lambda_tv": dict(type=number(0), default=0.1, help="TEXTURE: weight of the colours' total variation")}
TRAINING = {
    "preset": dict(choices=("published", "best"), default="published", help=(
        "published: the options of the published run; best: those that won in trials on real shapes; options on the "
        "command line override either")),
    "n_iters": dict(type=integer(1), help="total number of iterations; with BATCHES_DONE, of the further ones"),
    "batches_done": dict(type=integer(0), default=0, metavar="N", help=(
        "the published way to continue after N iterations: continues the run in CKPT_DIR, or starts from the given "
        "weights")),
    "batch_size": dict(type=integer(1), default=128, help="images per iteration"),
    "lr": dict(type=number(0, above=True), default=1e-4, help="learning rate (Adam)"),
    "lr_D": dict(type=number(0, above=True), help="learning rate of the discriminator (default: LR)"),
    "decay_batch": dict(type=integer(0), help="iterations at the full learning rate, before its first decay"),
    "decay_every": dict(type=integer(1), default=5000, help="iterations between two decays"),
    "decay_order": dict(type=number(0, above=True), default=0.1, help="factor of each decay"),
    "lambda_smth": dict(type=number(0), default=0.001, help="weight of the smoothness loss"),
    "lambda_Gprior": dict(type=number(0), help="weight of the Gaussian prior of the codes (VPL has none)"),
    "lambda_adv": dict(type=number(0), help="weight of the adversarial confusion; 0 is the plain autoencoder (AE)"),
    "lambda_Lap": dict(type=number(0), default=0.0, help="weight of the Laplacian loss"),
    "lambda_edge": dict(type=number(0), default=0.0, help="weight of the edge length loss"),
    "lambda_pressure": dict(type=number(0), default=0.0, help=(
        "weight of internal pressure, which pushes every face outwards along its normal")),
    "lambda_front": dict(type=number(0), default=0.0, help=(
        "weight of the loss of surfaces that are inside out: fronts behind backs, from random directions")),
    "lambda_flat": dict(type=number(0), default=0.0, help=(
        "weight of flatness where no camera of the training images faces the surface")),
    "lambda_near": dict(type=number(0), default=0.0, help=(
        "weight of the silhouette loss from another view, against training silhouettes of that view that probably show "
        "similar objects")),
    "near_from": dict(type=integer(0), default=0, help="first iteration that uses LAMBDA_NEAR"),
    "near_every": dict(type=integer(1), default=1000, metavar="N", help=(
        "the similar objects for LAMBDA_NEAR are looked for anew every N iterations")),
    "lambda_mirror": dict(type=number(0), default=0.0, help=(
        "weight of the silhouette loss from the mirrored camera, against the flipped silhouette of the image")),
    **COLOURS,
    "G_every": dict(type=integer(1), default=2, help=(
        "every n-th iteration trains the encoder against the discriminator, the others train the discriminator")),
    **{name: keywords for method in METHODS.values() for name, keywords in method.options.items()},
    "D_always": dict(action=argparse.BooleanOptionalAction, default=False, help=(
        "train the discriminator in the encoder's iterations too")),
    "pairs": dict(type=int, choices=(1, 2), default=1, help=(
        "2: a batch has two images of each of its objects, and each shape learns from both silhouettes (Kato et al. "
        "2018)")),
    "lr_schedule": dict(choices=("constant", "cosine"), default="constant", help=(
        "constant: constant but for the decays of DECAY_BATCH; cosine: falls to 0 at N_ITERS")),
    "clip_norm": dict(type=number(0), default=0.0, metavar="NORM", help=(
        "longest gradient of a network; longer ones are scaled down (default: no limit)")),
    "amp": dict(action="store_true", help="bfloat16 inside the networks"),
    "cuda_graph": dict(choices=("auto", "on", "off"), default="auto", help=(
        "record each step as a CUDA graph and replay it; auto: if one process trains on one GPU")),
    "data_on": dict(choices=("auto", "device", "host"), default="auto", help=(
        "where to keep the training images; auto: in the GPU's memory if they take at most half of the free memory, "
        "else on the host, read one batch ahead")),
    "log_step": dict(type=integer(1), default=10, help="iterations between two records"),
    "ckpt_step": dict(type=integer(1), default=500, help="iterations between two checkpoints, with validation"),
    "sample_step": dict(type=integer(1), default=500, help="iterations between two pictures"),
    "keep_last": dict(type=integer(0), default=0, metavar="N", help=(
        "keep the newest N checkpoints beside last.pt, as step-00500.pt")),
    "on_nan": dict(choices=("stop", "skip"), default="stop", help=(
        "if a loss or gradient is not finite: stop the run, or skip the step and count it"))}


def run(options, device, defaults=None):
    """Train until `n_iters`; returns the exit code: 0, or 75 if a signal asked to stop.

    defaults : default values of the options, for runs of older versions that did not have an option.
    """
    dataset = DATASETS[options.dataset]
    _check(options, dataset)
    need(options, "ckpt_dir")
    options = _settled(_gone_on(options), dataset)
    main = distributed.main()
    with Interruption() as interruption:
        described = dict(vars(options))
        if main:
            lock.check(options.ckpt_dir)
        begun = set(runs.held(options.ckpt_dir, options.resume)) - {runs.METRICS}
        if not begun and weights.given(options):  # check before unpacking data, which may take minutes
            weights.start_from(Model(vars(options)).modules(), options, dataset)
        runs.seed_everything(options.seed)
        with distributed.main_first():
            data = dataset.open(described, "train", trainViews=options.trainViews, seed=options.data_seed)
            validation = dataset.open(described, "val", seed=options.data_seed)
        _check_pairs(options, data)
        trainer = Trainer(options, device, data)
        if not begun:
            weights.start_from(trainer.modules, options, dataset)
        distributed.same_as_main(trainer.modules.values())
        seen = {"train": runs.describe_data(data), "val": runs.describe_data(validation)}
        # All inputs have been read and checked; from here on files are written.
        with lock.held(options.ckpt_dir) if main else contextlib.nullcontext():
            with distributed.main_first():
                if main:
                    resumed = runs.start(options.ckpt_dir, described, options.resume, options.sample_dir, seen,
                                         defaults, {part.split: part.left_out for part in (data, validation)})
                else:
                    resumed = checkpoints.load_last(options.ckpt_dir) if begun else None
            loop = Loop(trainer, data, validation, {"options": described, "data": seen}, resumed)
            return loop.run(interruption)


def _settled(options, dataset):
    """The options with data_dir, class_ids and cache_dir filled in, and absolute paths, so that they are valid from any
    working directory. Without --data_dir, makes the built-in data if they do not exist."""
    settled = argparse.Namespace(**vars(options))
    if options.data_dir is None and options.dataset != DEFAULT:
        raise InputError(f"--dataset={options.dataset} needs --data_dir, a folder with {dataset.files}; to make a "
                         f"small one: {synthetic.making(options.dataset, 'DIR')}")
    if options.data_dir is not None and not os.path.isdir(options.data_dir):
        raise InputError(f"--data_dir={options.data_dir} is not a folder; expected one with {dataset.files}; to make a "
                         f"small one: {synthetic.making(options.dataset, options.data_dir)}")
    if options.data_dir is None:
        settled.data_dir = synthetic.FOLDER
        settled.class_ids = options.class_ids or list(synthetic.MAIN_CLASSES)
        with distributed.main_first():
            synthetic.make_synthetic(settled.data_dir, settled.class_ids, options.n_train, options.n_val,
                                     options.n_test, options.train_views, options.palette, options.data_seed)
    settled.class_ids = dataset.classes(settled.data_dir, vars(settled))
    settled.data_dir = os.path.abspath(settled.data_dir)
    settled.cache_dir = os.path.abspath(options.cache_dir or os.path.join(settled.data_dir, ".cache"))
    for name in ("obj_dir", "load_G", "load_T", "load_D", "split_file"):
        path = getattr(options, name)
        setattr(settled, name, path and os.path.abspath(path))
    settled.load_E = options.load_E and [os.path.abspath(path) for path in options.load_E]
    return settled


def _gone_on(options):
    """The options with --batches_done=N, the published way to resume, resolved: --n_iters counts the iterations after
    the first N. With weights instead of a run, Adam starts anew, as in the published program."""
    done, folder = options.batches_done, options.ckpt_dir
    if not done:
        return options
    options = argparse.Namespace(**{**vars(options), "n_iters": options.n_iters + done})
    if set(runs.held(folder, resume=True)) - {runs.METRICS}:
        state = checkpoints.load_last(folder)
        goes_on = options.resume and state["options"].get("batches_done") == done  # the run began with this option
        if state["step"] != done and not goes_on:
            raise InputError(f"--batches_done={done}: the run in {folder} has {state['step']} iterations; give "
                             f"--batches_done={state['step']}, or --resume and --n_iters, the iterations in all")
        options.resume = True
    elif not weights.given(options):
        raise InputError(f"--batches_done={done}: --ckpt_dir={folder} holds no run to continue; give the weights "
                         "of that iteration with --load_E, --load_G and --load_D")
    return options


def _check(options, dataset):
    """Raise InputError for options that cannot be used for training. This runs before anything is loaded."""
    if options.lambda_adv > 0 and options.G_every < 2 and not options.D_always:
        raise InputError(f"--G_every={options.G_every} with --lambda_adv={options.lambda_adv:g}: every "
                         "iteration would be the encoder's and the discriminator would never learn; "
                         "give --G_every=2 or more, --D_always, or --lambda_adv=0 for the plain autoencoder")
    if options.lambda_mirror and not dataset.mirror_planes():
        raise InputError(f"--lambda_mirror={options.lambda_mirror:g}: {options.dataset} has no mirrored cameras")
    if options.texture == "cubes":
        _check_cubes(options)
    if options.visdom_env is not None:
        VisdomServer.of(options).check(options.visdom_env)
    METHODS[options.mode].check(options, dataset, dataset.count_poses(vars(options)))
    if options.batch_size % distributed.size():
        raise InputError(f"--batch_size={options.batch_size} cannot be divided equally among {distributed.size()} "
                         "processes: give a multiple of their number")
    if options.batch_size % (options.pairs * distributed.size()):
        raise InputError(f"--batch_size={options.batch_size} with --pairs={options.pairs}: give a multiple of "
                         f"{options.pairs * distributed.size()}, so every process gets whole pairs")
    if options.img_size not in dataset.img_sizes:
        raise InputError(f"--img_size={options.img_size}: images of {options.dataset} are "
                         f"{' or '.join(map(str, dataset.img_sizes))} px")
    if options.img_size == RESNET_SIZE and options.latent_dim != 8 * options.enc_width:
        raise InputError(f"--latent_dim={options.latent_dim}: images of {RESNET_SIZE} px use a ResNet, whose code "
                         f"has 8 times --enc_width={options.enc_width} numbers: give {8 * options.enc_width}")
    if options.resnet_weights and options.img_size != RESNET_SIZE:
        raise InputError(f"--resnet_weights={options.resnet_weights} is for the ResNet of {RESNET_SIZE} px images; "
                         f"this run has --img_size={options.img_size}")


def _check_cubes(options):
    """Refuse cubes that do not fit into memory: those of a batch, with their gradient and that of their texels."""
    faces, texels = len(load_template(options.obj_dir)[1]), options.texture_size ** 3
    wanted = 3 * 12 * faces * texels * (options.batch_size // distributed.size())
    free = devices.free_memory(devices.named(options))
    if free is not None and wanted > free:
        raise InputError(f"--texture_size={options.texture_size}: cubes of {texels} texels on {faces} faces take "
                         f"{wanted / 1e9:.1f} GB for a batch of {options.batch_size}, and {free / 1e9:.1f} GB are "
                         "free; give a smaller one, or a smaller --batch_size")


def _check_pairs(options, data):
    """Raise InputError if --pairs=2 and an object of the training split has only one image."""
    if options.pairs == 2:
        alone = int((torch.bincount(data.all_objects(), minlength=data.num_objects) < 2).sum())
        if alone:
            raise InputError(f"--pairs=2 needs two images of every object, but {alone} of {data.num_objects} training "
                             "objects have one")


MODE = Mode(run, None, options=synthetic.EMBEDDED, taken_by_all={**TRAINING, **SERVER},
            several_processes=True)
