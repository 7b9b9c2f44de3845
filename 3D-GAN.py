#!/usr/bin/env python3
"""Learn the shape of objects from single images, free of the pose they were seen from.

    python 3D-GAN.py --mode=train --class_ids 02958343 --ckpt_dir runs/car
    python 3D-GAN.py --mode=evaluation --ckpt_dir runs/car
    python 3D-GAN.py --mode=reconstruct --ckpt_dir runs/car --load_im photo.png
"""
import argparse
import json
import os
import shlex
import sys

from errors import DeviceError, Divergence, InputError, Stopped, WriteError

HERE = os.path.dirname(os.path.abspath(__file__))
SYNTHETIC = os.path.join(HERE, "data", "synthetic")
EMBEDDED = {"n_train": 300, "n_val": 40, "n_test": 40, "palette": "own"}  # options of the embedded shapes alone


class Help(argparse.HelpFormatter):
    """Defaults behind the help of every option that has one and does not tell it itself."""

    def _get_help_string(self, action):
        if "(default" in action.help:
            return action.help
        plain = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        return action.help + (published(action.dest) if plain else " (default: %(default)s)")


def published(name):
    """' (default: 20000; Pascal3D 40000)' of an option that `parse` settles: the datasets' published runs do."""
    from datasets import DATASETS
    if name in EMBEDDED:
        return f" (default: {EMBEDDED[name]})"
    values = {dataset: cls.defaults({}).get(name) for dataset, cls in DATASETS.items()}
    first = next(iter(values.values()))
    told = [str(first)] if first is not None else []
    told += [f"{dataset} {value}" for dataset, value in values.items() if value != first and value is not None]
    return f" (default: {'; '.join(told)})" if told else ""


def parser():
    p = argparse.ArgumentParser(
        prog="3D-GAN.py", usage="3D-GAN.py --mode=MODE [options]", formatter_class=Help, allow_abbrev=False,
        description="3D shape from single images, after Peng et al. 2020 (arXiv 2004.01347). Defaults are "
                    "those of the published run of each dataset.")
    p.add_argument("--mode", required=True, choices=list(MODES), metavar="MODE", help="; ".join(
        f"{name}: {mode.__doc__.splitlines()[0]}" for name, mode in MODES.items()))
    from datasets import DATASETS  # they know their published settings
    p.add_argument("--dry_run", action="store_true", help="print the resolved options and stop")

    g = p.add_argument_group("run")
    g.add_argument("--ckpt_dir", metavar="DIR", help="the run's folder: options, checkpoints, log, results")
    g.add_argument("--sample_dir", metavar="DIR",
                   help="pictures, meshes and tables (default: CKPT_DIR/samples; without CKPT_DIR results, of compare "
                        "results/compare, in the working directory; evaluation: CKPT_DIR itself)")
    g.add_argument("--resume", action="store_true", help="go on with the run that CKPT_DIR holds, exactly")
    g.add_argument("--eval_flag", type=checkpoint_name, default="last", metavar="WHICH",
                   help="checkpoint to use: last, best, or the step of one that KEEP_LAST kept")
    g.add_argument("--seed", type=integer(0), default=0, help="of weights and data order")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    g.add_argument("--device_id", type=integer(0), metavar="N", help="the published way to say --device=cuda:N")
    g.add_argument("--deterministic", action="store_true",
                   help="repeat to the bit on CUDA too, with slower algorithms; the CPU always does")
    g.add_argument("--tf32", action="store_true", help="CUDA: multiply float32 with 10 bits of mantissa, on tensor "
                                                       "cores")
    g.add_argument("--threads", type=integer(1), help="CPU threads (default: torch's choice)")

    g = p.add_argument_group("data")
    g.add_argument("--dataset", choices=list(DATASETS), default="CVPR18",
                   help="layout of DATA_DIR, where no run tells it; options not given are those of its published run")
    g.add_argument("--data_dir", metavar="DIR", help="the dataset's files (default: data/synthetic, made if "
                                                     "it is not there; evaluation: that of the run)")
    g.add_argument("--cache_dir", metavar="DIR", help="images, unpacked (default: DATA_DIR/.cache)")
    g.add_argument("--class_ids", "--class_id", nargs="+", metavar="ID",
                   help="classes of ONE model, e.g. 02958343 for cars (default: all of DATA_DIR)")
    g.add_argument("--trainViews", type=integer(1), metavar="N",
                   help="views used of each training object: CVPR18 draws them by DATA_SEED (default: all); "
                        "NIPS17 takes the first (default: 1; check_data: all)")
    g.add_argument("--img_size", type=integer(1), help="side of the images in pixels")
    g.add_argument("--split", choices=("train", "val", "test"),
                   help="what is evaluated (default: test, t_SNE: val; NIPS17 test; Pascal3D val, t_SNE: train; "
                        "all as published)")

    g.add_argument("--skip_bad", action="store_true",
                   help="go on without objects whose files are broken, and list them (NIPS17, Pascal3D, MESH_DIR, the "
                        "images of --load_im)")
    g.add_argument("--wAzimuth", type=number(0, above=True), metavar="DEG", help="width of NIPS17's pose bins")
    g.add_argument("--wElevation", type=number(0, above=True), metavar="DEG", help="... in elevation")
    g.add_argument("--split_file", metavar="JSON", help="NIPS17: {class: {train, val, test: [objects]}} (default: "
                                                        "DATA_DIR/splits.json)")
    g.add_argument("--mask_from", choices=("depth", "alpha"), help="NIPS17: where an image shows the object")
    g.add_argument("--published_flip", action="store_true",
                   help="Pascal3D: mirror images, but neither their masks nor their cameras, as published")

    g = p.add_argument_group("networks")
    g.add_argument("--latent_dim", type=integer(1), default=512, help="length of the shape code")
    g.add_argument("--enc_width", type=integer(1), default=64,
                   help="channels of the encoder's first layer; everything in it scales along")
    g.add_argument("--channels", type=integer(1),
                   help="planes that VPL's discriminator sees: the silhouette and one for each view or pose bin")
    g.add_argument("--obj_dir", metavar="OBJ", help="template mesh of unit radius (default: an icosphere of "
                                                    "642 vertices)")
    g.add_argument("--symmetric", action=argparse.BooleanOptionalAction, help="predict meshes symmetric in z")
    g.add_argument("--resnet_weights", metavar="FILE", help="start the ResNet of 224 px images from torchvision's "
                                                            "published ResNet-18 weights")

    g = p.add_argument_group("weights: state dicts of the published program, or run files (.pt) of this one; "
                             "train starts from them, other modes take them instead of CKPT_DIR")
    g.add_argument("--load_E", nargs="+", metavar="FILE", help="encoder (MMD and t_SNE: several, side by side)")
    g.add_argument("--load_G", metavar="FILE", help="mesh decoder; --obj_dir names its template")
    g.add_argument("--load_D", metavar="FILE", help="discriminator (train)")

    g = p.add_argument_group("training")
    g.add_argument("--n_iters", type=integer(1), help="iterations in all")
    g.add_argument("--batch_size", type=integer(1), default=128, help="images an iteration")
    g.add_argument("--lr", type=number(0, above=True), default=1e-4, help="learning rate (Adam)")
    g.add_argument("--lr_D", type=number(0, above=True), help="that of the discriminator (default: LR)")
    g.add_argument("--decay_batch", type=integer(0), help="iteration from which the rate decays")
    g.add_argument("--decay_every", type=integer(1), default=5000, help="iterations between two decays")
    g.add_argument("--decay_order", type=number(0, above=True), default=0.1, help="factor of a decay")
    g.add_argument("--lambda_smth", type=number(0), default=0.001, help="weight of smoothness")
    g.add_argument("--lambda_Gprior", type=number(0), help="weight of the code's Gaussian prior (VPL has none)")
    g.add_argument("--lambda_adv", type=number(0),
                   help="weight of the adversarial confusion; 0 is the plain autoencoder (AE)")
    g.add_argument("--lambda_Lap", type=number(0), default=0.0, help="weight of the Laplacian loss")
    g.add_argument("--lambda_edge", type=number(0), default=0.0, help="weight of the edge length loss")
    g.add_argument("--G_every", type=integer(1), default=2,
                   help="every n-th iteration is the encoder's, the others are the discriminator's")
    g.add_argument("--confusion", choices=("log2", "ce"), default="log2",
                   help="log2: as published; ce: cross-entropy to the uniform distribution")
    g.add_argument("--standardize_code", action="store_true",
                   help="standardise the code before the discriminator, which then learns")
    g.add_argument("--amp", action="store_true", help="bfloat16 inside the networks")
    g.add_argument("--cuda_graph", choices=("auto", "on", "off"), default="auto",
                   help="start each step on the GPU as one recorded graph; auto: where one process trains on one")
    g.add_argument("--data_on", choices=("auto", "device", "host"), default="auto",
                   help="where the training images are; auto: in the GPU's memory if they take at most half of what "
                        "is free, else read one batch ahead")
    g.add_argument("--log_step", type=integer(1), default=10, help="iterations between two records")
    g.add_argument("--ckpt_step", type=integer(1), default=500, help="... two checkpoints with validation")
    g.add_argument("--sample_step", type=integer(1), default=500, help="... two pictures")
    g.add_argument("--keep_last", type=integer(0), default=0, metavar="N",
                   help="the newest N checkpoints stay beside last.pt, as step-00500.pt")
    g.add_argument("--on_nan", choices=("stop", "skip"), default="stop",
                   help="a loss or gradient that is not finite stops the run, or its step changes nothing and "
                        "is counted")

    g = p.add_argument_group("reconstruct and interpolation")
    g.add_argument("--load_im", metavar="PATH", help="an image, or a folder of them")
    g.add_argument("--n_images", type=integer(1), default=24,
                   help="images of SPLIT to reconstruct, without LOAD_IM, at most one of each object")
    g.add_argument("--load_im1", metavar="PATH", help="the image to interpolate to")
    g.add_argument("--steps", type=integer(2), default=6, help="shapes of an interpolation, with both ends")
    g.add_argument("--mask", metavar="PNG", help="where the object is, for an image without alpha")
    g.add_argument("--mask1", metavar="PNG", help="... of the image to interpolate to")
    g.add_argument("--obj_frame", choices=("people", "renderer"), default="people",
                   help="people: right-handed, as photographs show it; renderer: as predicted (mirrored)")

    g = p.add_argument_group("evaluation, compare, MMD and t_SNE")
    g.add_argument("--mmd_batches", type=integer(1), metavar="N",
                   help="MMD of the first N batches of BATCH_SIZE codes of each class, object by object; the published "
                        "program took 96 of 128, on CVPR18 512 objects x 24 views (default: all codes)")
    g.add_argument("--runs", nargs="+", metavar="DIR", help="several run folders, side by side (compare: evaluated "
                                                            "ones)")
    g.add_argument("--perplexity", type=number(0, above=True), default=30.0, help="of t-SNE")

    g = p.add_argument_group("dashboard, while training and afterwards")
    g.add_argument("--visdom_env", metavar="NAME", help="show the run in this visdom environment")
    g.add_argument("--visdom_server", metavar="URL", default="http://localhost", help="where visdom runs")
    g.add_argument("--visdom_port", type=integer(1), default=8097, help="its port")
    g.add_argument("--follow", action="store_true", help="dashboard: go on as long as the run does, until Ctrl-C")

    g = p.add_argument_group("make_dataset")
    g.add_argument("--mesh_dir", metavar="DIR", help="meshes, a subfolder for each class (OBJ, OFF, PLY, STL, "
                                                     "GLB); without it, the embedded shapes")
    g.add_argument("--up", choices=("x", "y", "z", "-x", "-y", "-z"), default="y", help="up axis of the meshes")
    g.add_argument("--n_train", type=integer(1), help="objects of a class to train on")
    g.add_argument("--n_val", type=integer(1), help="... to validate")
    g.add_argument("--n_test", type=integer(1), help="... to test")
    g.add_argument("--layout", choices=list(DATASETS), default="CVPR18", help="of the files")
    g.add_argument("--train_views", type=integer(1),
                   help="views drawn of a training object (default: all that the layout has)")
    g.add_argument("--palette", choices=("own", "shared"),
                   help="colours of each object's own, or shared so that colour cannot identify it")
    g.add_argument("--data_seed", type=integer(0), default=0, help="of the shapes and of --trainViews")
    return p


def integer(least):
    def convert(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value
    convert.__name__ = f"integer of at least {least},"
    return convert


def number(least, above=False):
    def convert(text):
        value = float(text)
        if not least <= value < float("inf") or (above and value == least):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number {'above' if above else 'from'} {least}"
                                             f"{'' if above else ' on'}")
        return value
    convert.__name__ = "number"
    return convert


def checkpoint_name(text):
    if text not in ("last", "best") and not (text.isdecimal() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is not last, best or a step")
    return text


def train(options, device):
    """the model (featGAN; with --lambda_adv=0 the plain autoencoder)"""
    import training
    from engine import distributed
    training.check_options(options)
    need(options, "ckpt_dir")
    made_here = options.data_dir is None
    from datasets import DATASETS
    dataset = DATASETS[options.dataset]
    if made_here and options.dataset != "CVPR18":
        raise InputError(f"--dataset={options.dataset} needs --data_dir, a folder with {dataset.files}; small ones "
                         f"to try it: {making(options, 'DIR')}")
    if not made_here and not os.path.isdir(options.data_dir):
        raise InputError(f"--data_dir={options.data_dir} is not a folder; expected one with {dataset.files}; a small "
                         f"one to try it: {making(options, options.data_dir)}")
    if made_here:
        import synthetic
        options.data_dir = SYNTHETIC
        options.class_ids = options.class_ids or list(synthetic.MAIN_CLASSES)
        with distributed.main_first():
            make_synthetic(options)
    options.class_ids = dataset.classes(options.data_dir, vars(options))
    # Absolute: the run's options are to hold wherever it is looked at from.
    options.data_dir = os.path.abspath(options.data_dir)
    options.obj_dir = options.obj_dir and os.path.abspath(options.obj_dir)
    options.load_E = options.load_E and [os.path.abspath(path) for path in options.load_E]
    options.load_G = options.load_G and os.path.abspath(options.load_G)
    options.load_D = options.load_D and os.path.abspath(options.load_D)
    options.cache_dir = options.cache_dir or os.path.join(options.data_dir, ".cache")
    defaults = parse([f"--mode={options.mode}", f"--dataset={options.dataset}"])
    return training.train(options, device, vars(defaults))


def making(options, folder, *more):
    """The command that makes a dataset in a folder."""
    layout = [] if options.dataset == "CVPR18" else [f"--layout={options.dataset}"]
    return " ".join(["--mode=make_dataset", *layout, f"--data_dir={shlex.quote(folder)}", *more])


def trainCVPR19(options, device):
    """View Prior Learning (VPL), the compared method"""
    return train(options, device)


def evaluation(options, device):
    """voxel IoU, MMD and their controls, as a table and JSON"""
    need_model(options)
    import evaluation
    return evaluation.evaluation(options, device)


def reconstruct(options, device):
    """meshes from images: OBJ, GLB, pictures, turntable; of a folder a page where they turn"""
    need_model(options)
    import visualization
    options.sample_dir = options.sample_dir or "results"
    return visualization.reconstruct(options, device)


def reconstruct_Pascal(options, device):
    """the published name for reconstruct on images of the run's dataset, without LOAD_IM"""
    return reconstruct(options, device)


def interpolation(options, device):
    """shapes between those of two images"""
    need_model(options)
    import visualization
    options.sample_dir = options.sample_dir or "results"
    return visualization.interpolation(options, device)


def MMD(options, device):
    """how far the codes of different poses lie apart, pair by pair"""
    refuse_two_folders(options)
    import analysis
    options.sample_dir = options.sample_dir or "results"
    return analysis.mmd(options, device)


def t_SNE(options, device):
    """the codes in two dimensions, coloured by pose and by object"""
    refuse_two_folders(options)
    import analysis
    options.sample_dir = options.sample_dir or "results"
    return analysis.t_sne(options, device)


def compare(options, device):
    """RUNS side by side: one picture, one table"""
    if not options.runs:
        raise InputError("--mode=compare needs --runs, the folders of two or more runs")
    refuse_two_folders(options)
    options.sample_dir = options.sample_dir or "results/compare"
    import compare
    return compare.compare(options, device)


def dashboard(options, device):
    """a run, finished or running, in visdom"""
    need(options, "ckpt_dir")
    need(options, "visdom_env")
    import dashboard
    return dashboard.dashboard(options, device)


def check_data(options, device):
    """what DATA_DIR holds and misses, and whether its axes are right: a table, a picture, an exit code"""
    import check_data
    need(options, "data_dir")
    options.sample_dir = options.sample_dir or "results"
    return check_data.check_data(options, device)


def make_dataset(options, device):
    """files in the published layouts from the embedded shapes or from MESH_DIR"""
    import synthetic
    if options.layout != "CVPR18":
        need(options, "data_dir")
    options.data_dir = options.data_dir or SYNTHETIC
    if options.mesh_dir:
        synthetic.make_from_meshes(options.data_dir, options.mesh_dir, options.up, options.data_seed,
                                   options.train_views, options.layout, options.skip_bad, options.class_ids)
    else:
        options.class_ids = options.class_ids or list(synthetic.MAIN_CLASSES)
        make_synthetic(options)
    return 0


def make_synthetic(options):
    import synthetic
    synthetic.make_synthetic(options.data_dir, options.class_ids, options.n_train, options.n_val,
                             options.n_test, options.train_views, options.palette, options.data_seed,
                             options.layout)


MODES = {"train": train, "trainCVPR19": trainCVPR19, "evaluation": evaluation, "reconstruct": reconstruct,
         "reconstruct_Pascal": reconstruct_Pascal,
         "t_SNE": t_SNE, "interpolation": interpolation, "MMD": MMD, "compare": compare,
         "dashboard": dashboard, "check_data": check_data, "make_dataset": make_dataset}


TRAINING = "train", "trainCVPR19"
# Options that only some modes or datasets read. Those of the published program are taken everywhere: its scripts
# give every mode the same ones.
READ_BY = {("n_images",): ("reconstruct", "reconstruct_Pascal"),
           ("mask", "obj_frame"): ("reconstruct", "reconstruct_Pascal", "interpolation"),
           ("mask1", "steps"): ("interpolation",),
           ("runs",): ("compare", "MMD", "t_SNE"), ("perplexity",): ("t_SNE",), ("mmd_batches",): ("MMD", "evaluation"),
           ("follow",): ("dashboard",),
           ("mesh_dir", "up", "layout"): ("make_dataset",),
           (*EMBEDDED, "train_views"): ("make_dataset", *TRAINING)}
OF_DATASETS = "mask_from", "skip_bad", "published_flip"


def parse(arguments=None):
    """The options; those that were not given have the values of the dataset's published run. A dataset that was not
    given is None where a run tells its own."""
    from datasets import DATASETS
    p, arguments = parser(), list(sys.argv[1:] if arguments is None else arguments)
    for i, argument in enumerate(arguments[:-1]):
        if argument == "--up":  # argparse takes -z for an option
            arguments[i:i + 2] = [f"--up={arguments[i + 1]}"]
            break
    options, not_given = p.parse_args(arguments), object()
    seen = p.parse_args(arguments, argparse.Namespace(**{a.dest: not_given for a in p._actions}))
    problem = unread(options, [name for name, value in vars(seen).items() if value is not not_given])
    if problem:
        p.error(problem)
    defaults = dict(DATASETS[options.dataset].defaults(vars(options)))
    if options.mode == "check_data":
        defaults.pop("trainViews", None)
    for name, value in {**defaults, **EMBEDDED}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if seen.dataset is not_given and options.mode not in (*TRAINING, "check_data"):
        options.dataset = None
    return options


def unread(options, given):
    """A sentence on an option that was given and that this run would not look at, if there is one."""
    from datasets import DATASETS
    for name in given:
        names, modes = next((both for both in READ_BY.items() if name in both[0]), ((), ()))
        if modes and options.mode not in modes:
            return f"--{name} is an option of --mode={' and '.join(modes)}, not of {options.mode}"
        if name in EMBEDDED and options.mode == "make_dataset" and options.mesh_dir:
            return (f"--{name} is for the embedded shapes; the meshes of --mesh_dir are all taken, 70/10/20 to train, "
                    "validate and test, in their own colours")
        if options.mode not in TRAINING:
            continue
        if modes and options.data_dir and not options.resume:
            there = os.path.isdir(options.data_dir)
            command = making(options, "OTHER" if there else options.data_dir,
                             *(f"--{n}={getattr(options, n)}" for n in given if n in names))
            if not there:
                return f"--{name} is for data to be made, which is a command of its own: {command}"
            instead = " (training takes --trainViews)" if name == "train_views" else ""
            return (f"--{name} is for data to be made, and --data_dir={options.data_dir} is there; leave it "
                    f"out{instead}, or make another: {command}")
        if name in OF_DATASETS and name not in DATASETS[options.dataset].reads:
            readers = [other for other, cls in DATASETS.items() if name in cls.reads]
            return f"--{name} is an option of --dataset={' and '.join(readers)}, not of {options.dataset}"
        if options.mode == "trainCVPR19" and name in ("confusion", "standardize_code"):
            return f"--{name} is of --mode=train: VPL has no such thing"
    return None


def need(options, name):
    if getattr(options, name) is None:
        raise InputError(f"--mode={options.mode} needs --{name}")


def need_model(options):
    if options.load_E is None and options.load_G is None:
        need(options, "ckpt_dir")


def refuse_two_folders(options):
    """What is measured of other runs would be written over what CKPT_DIR/samples tells of its own."""
    for name in ("runs", "load_E"):
        if options.ckpt_dir is not None and getattr(options, name) is not None:
            raise InputError(f"--ckpt_dir={options.ckpt_dir} and --{name} together: --mode={options.mode} takes one of "
                             "them; several runs are named with --runs, and where to write with --sample_dir")


def main(arguments=None):
    try:
        return run(parse(arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run(options):
    if options.sample_dir is None and options.ckpt_dir is not None:
        options.sample_dir = os.path.join(options.ckpt_dir, "samples")
    if options.dry_run:
        print(json.dumps(vars(options), indent=2))
        return 0
    from engine import devices, distributed
    devices.keep_freed_memory()
    try:
        with distributed.joined(options.mode), devices.failures_told(options):
            return MODES[options.mode](options, devices.resolve(options))
    except (InputError, Divergence, WriteError, DeviceError) as error:
        if distributed.first_to_tell():
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        if distributed.first_to_tell():
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return WriteError.exit_code
    except Stopped as stop:
        print(stop)
        return stop.exit_code


if __name__ == "__main__":
    code = main()
    from engine import distributed
    distributed.leave(code)
