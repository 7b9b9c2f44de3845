#!/usr/bin/env python3
"""learn3D: learns to predict 3D meshes from single images, with shape codes that are free of the pose.

    python 3D-GAN.py --mode=train --class_ids 02958343 --ckpt_dir runs/car
    python 3D-GAN.py --mode=evaluation --ckpt_dir runs/car
    python 3D-GAN.py --mode=reconstruct --ckpt_dir runs/car --load_im photo.png
"""
import argparse
import dataclasses
import json
import os
import runpy
import sys

import synthetic
from datasets import DATASETS, DEFAULT
from engine import devices, distributed
from engine.arguments import Names, integer
from errors import DeviceError, Divergence, InputError, Stopped, WriteError
from methods import METHODS, refused
from modes import (check_data, compare, dashboard, evaluation, interpolation, make_dataset, mmd, reconstruct, t_sne,
                   train)

MODES = {
    **{name: dataclasses.replace(train.MODE, help=method.help) for name, method in METHODS.items()},
    "evaluation": evaluation.MODE, "reconstruct": reconstruct.MODE,
    "reconstruct_Pascal": dataclasses.replace(reconstruct.MODE, help=(
        "the published name for reconstruct on images of the run's dataset, without LOAD_IM")),
    "t_SNE": t_sne.MODE, "interpolation": interpolation.MODE, "MMD": mmd.MODE, "compare": compare.MODE,
    "dashboard": dashboard.MODE, "check_data": check_data.MODE, "make_dataset": make_dataset.MODE}
SEVERAL = [name for name, mode in MODES.items() if mode.several_processes]


# ---- parse ------------------------------------------------------------------------------------------

class Help(argparse.HelpFormatter):
    """Appends the default to the help of every option, unless the help states it."""

    def _get_help_string(self, action):
        if "(default" in action.help:
            return action.help
        plain = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        return action.help + (published(action.dest) if plain else " (default: %(default)s)")


def published(name):
    """' (default: 20000; Pascal3D 40000)' for an option whose default is that of the datasets' published runs."""
    values = {dataset: cls.defaults({}).get(name) for dataset, cls in DATASETS.items()}
    first = next(iter(values.values()))
    told = [str(first)] if first is not None else []
    told += [f"{dataset} {value}" for dataset, value in values.items() if value != first and value is not None]
    return f" (default: {'; '.join(told)})" if told else ""


def version():
    """The version of this checkout, whatever version of the renderer is installed."""
    here = os.path.dirname(os.path.abspath(__file__))
    return runpy.run_path(os.path.join(here, "cuda", "neural_renderer", "version.py"))["LEARN3D"]


def parser():
    p = argparse.ArgumentParser(
        prog="3D-GAN.py", usage="3D-GAN.py --mode=MODE [options]", formatter_class=Help, allow_abbrev=False,
        description="3D shape from single images, after Peng et al. 2020 (arXiv 2004.01347). Defaults are "
                    "those of the published run of each dataset.")
    p.add_argument("--mode", required=True, choices=list(MODES), metavar="MODE",
                   help="; ".join(f"{name}: {mode.help}" for name, mode in MODES.items()))
    p.add_argument("--version", action="version", version=f"learn3D {version()}")
    p.add_argument("--dry_run", action="store_true", help="print the resolved options and stop")

    g = p.add_argument_group("run")
    g.add_argument("--ckpt_dir", metavar="DIR", help="the run's folder: options, checkpoints, log, results")
    g.add_argument("--sample_dir", metavar="DIR",
                   help="folder for pictures, meshes and tables (default: CKPT_DIR/samples; without CKPT_DIR: results, "
                        "and results/compare for compare; evaluation: CKPT_DIR itself)")
    g.add_argument("--resume", action="store_true", help="continue the run in CKPT_DIR exactly where it stopped")
    g.add_argument("--eval_flag", type=checkpoint_name, default="last", metavar="WHICH",
                   help="checkpoint to use: last, best, or the step of one that KEEP_LAST kept")
    g.add_argument("--prefix", metavar="TEXT", help="ignored; the published program takes it but does not use it")
    g.add_argument("--seed", type=integer(0), default=0, help="seed of the weights and of the order of the images")
    g.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    g.add_argument("--device_id", type=integer(0), metavar="N", help="published name of --device=cuda:N")
    g.add_argument("--deterministic", action="store_true",
                   help="repeat runs bit for bit on CUDA too, by slower algorithms; a CPU always repeats them")
    g.add_argument("--tf32", action="store_true", help="CUDA: multiply float32 on tensor cores, with 10 bits of "
                                                       "mantissa")
    g.add_argument("--threads", type=integer(1), help="CPU threads (default: torch's choice)")

    g = p.add_argument_group("data")
    g.add_argument("--dataset", choices=list(DATASETS), default=DEFAULT,
                   help="layout of DATA_DIR, unless a run determines it (default: %(default)s); sets the defaults of "
                        "other options to those of its published run")
    g.add_argument("--data_dir", metavar="DIR", help="the dataset's files (default: that of the run; train: "
                                                     "data/synthetic, made if it does not exist)")
    g.add_argument("--cache_dir", metavar="DIR", help="folder for unpacked images (default: DATA_DIR/.cache)")
    g.add_argument("--class_ids", "--class_id", action=Names, nargs="+", metavar="ID",
                   help="classes of ONE model, A B or A,B, e.g. 02958343 for cars (default: all of DATA_DIR)")
    g.add_argument("--trainViews", type=integer(1), metavar="N",
                   help="views used of each training object: CVPR18 draws them with DATA_SEED (default: all); "
                        "NIPS17 uses the first N (default: 1; check_data: all)")
    g.add_argument("--img_size", type=integer(1), help="side of the images in pixels")
    g.add_argument("--split", choices=("train", "val", "test"),
                   help="split to evaluate (default, as published: test, t_SNE: val; NIPS17: test; Pascal3D: val, "
                        "t_SNE: train)")
    g.add_argument("--data_seed", type=integer(0), default=0, help="seed of the built-in shapes and of --trainViews")
    # Options that datasets declare; if several declare one, the first is used.
    declared = {}
    for dataset in DATASETS.values():
        declared = {**dataset.taken_by_all, **dataset.options, **declared}
    for name, keywords in declared.items():
        g.add_argument(f"--{name}", **keywords)

    g = p.add_argument_group("networks")
    g.add_argument("--latent_dim", type=integer(1), default=512, help="length of the shape code")
    g.add_argument("--enc_width", type=integer(1), default=64,
                   help="channels of the encoder's first layer; the other layers scale with it")
    g.add_argument("--channels", type=integer(1),
                   help="input planes of VPL's discriminator: the silhouette and one per view or pose bin")
    g.add_argument("--obj_dir", metavar="OBJ", help="template mesh of unit radius (default: an icosphere of "
                                                    "642 vertices)")
    g.add_argument("--symmetric", action=argparse.BooleanOptionalAction, help="predict meshes symmetric in z")
    g.add_argument("--resnet_weights", metavar="FILE", help="start the ResNet of 224 px images from torchvision's "
                                                            "published ResNet-18 weights")

    g = p.add_argument_group("weights: state dicts of the published program, or run files (.pt) of this one; "
                             "train starts from them, other modes use them instead of CKPT_DIR")
    g.add_argument("--load_E", nargs="+", metavar="FILE", help="encoder (MMD and t_SNE: several, side by side)")
    g.add_argument("--load_G", metavar="FILE", help="mesh decoder; --obj_dir names its template")
    g.add_argument("--load_T", metavar="FILE", help="texture decoder (default: that of LOAD_G where this is the file "
                                                    "of a run with colours; train: none)")
    g.add_argument("--load_D", metavar="FILE", help="discriminator (train)")

    for title, options in by_modes().items():
        g = p.add_argument_group(title)
        for name, keywords in options.items():
            g.add_argument(f"--{name}", **keywords)
    return p


def by_modes():
    """{'t_SNE, MMD': {name: keywords}}: the options that modes declare, grouped by the modes that declare them."""
    declared = {}
    for mode in MODES.values():
        declared |= {**mode.taken_by_all, **mode.options}
    groups = {}
    for name, keywords in declared.items():
        title = ", ".join(mode for mode, its in MODES.items() if name in its.options or name in its.taken_by_all)
        groups.setdefault(title, {})[name] = keywords
    return groups


def checkpoint_name(text):
    if text not in ("last", "best") and not (text.isdecimal() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is not last, best or a step")
    return text


def parse(arguments=None):
    """Parse the command line; returns the options with all defaults filled in (`settled`)."""
    p, arguments = parser(), list(sys.argv[1:] if arguments is None else arguments)
    for i, argument in enumerate(arguments[:-1]):
        if argument in ("--up", "--front"):  # argparse would read -z as an option
            arguments[i:i + 2] = [f"{argument}={arguments[i + 1]}", None]
    arguments = [argument for argument in arguments if argument is not None]
    options, not_given = p.parse_args(arguments), object()
    seen = p.parse_args(arguments, argparse.Namespace(**{a.dest: not_given for a in p._actions}))
    given = [name for name, value in vars(seen).items() if value is not not_given]
    problem = unread(options, given)
    if problem:
        p.error(problem)
    return settled(options, given)


def unread(options, given):
    """A message about the first given option that this run would ignore, or None."""
    own, trains = MODES[options.mode].options, options.mode in METHODS
    for name in given:
        modes = [mode for mode, its in MODES.items() if name in its.options]
        if modes and name not in own:
            return f"--{name} is an option of --mode={' and '.join(modes)}, not of {options.mode}"
        if name in synthetic.SHAPES and options.mode == "make_dataset" and options.mesh_dir:
            return (f"--{name} is for the built-in shapes; --mesh_dir uses all its meshes, split 70/10/20 into train, "
                    "val and test, in their own colours")
        if name == "colors" and not options.mesh_dir:
            return "--colors is for --mesh_dir; the built-in shapes have --palette"
        if name in ("up", "front", "grid_surface", "voxels") and modes and not options.mesh_dir:
            return f"--{name} is for the files of --mesh_dir, which is not given"
        if not trains:
            continue
        if modes and options.data_dir and not options.resume:
            there = os.path.isdir(options.data_dir)
            command = synthetic.making(options.dataset, "OTHER" if there else options.data_dir,
                                       *(f"--{n}={getattr(options, n)}" for n in given if n in own))
            if not there:
                return f"--{name} describes data that do not exist yet; make them first: {command}"
            instead = " (training takes --trainViews)" if name == "train_views" else ""
            return (f"--{name} describes data to be made, but --data_dir={options.data_dir} exists; leave it "
                    f"out{instead}, or make another dataset: {command}")
        readers = [other for other, cls in DATASETS.items() if name in cls.options]
        if readers and options.dataset not in readers:
            return f"--{name} is an option of --dataset={' and '.join(readers)}, not of {options.dataset}"
        if refused(options, name):
            return refused(options, name)
        if name in train.COLOURS and name != "texture" and options.texture == "none":
            return f"--{name} is of --texture=faces and cubes; without colours nothing looks at it"
        if name == "texture_size" and options.texture == "faces":
            return "--texture_size is of --texture=cubes: a face has one colour"
    if options.preset == "best" and not trains:
        return f"--preset is an option of --mode={' and '.join(METHODS)}, not of {options.mode}"
    if options.preset == "best" and options.confusion == "log2" and "confusion" in given:
        return "--preset=best excludes --confusion=log2, with which standardised codes diverge; leave it out"
    if options.preset == "best" and options.lambda_adv == 0:
        return ("--preset=best excludes --lambda_adv=0: the preset is for a method with its adversary; give the losses "
                "of the plain autoencoder one by one, such as --lambda_pressure=1e-4")
    if options.lr_schedule == "cosine" and trains:
        for name in ("decay_batch", "decay_every", "decay_order"):
            if name in given:
                return f"--{name} belongs to --lr_schedule=constant; cosine falls to 0 at --n_iters"
    return None


# ---- settle -----------------------------------------------------------------------------------------

def settled(options, given):
    """The options, completed with those of --preset and then of the dataset's published run. If --dataset was not
    given, it is None in modes that take the dataset from a run."""
    defaults = dict(DATASETS[options.dataset].defaults(vars(options)))
    if options.mode == "check_data":
        defaults.pop("trainViews", None)
    preset = METHODS[options.mode].best if options.preset == "best" else {}
    values = {name: preset[name] if name in preset and name not in given
              else defaults.get(name) if value is None else value
              for name, value in vars(options).items()}
    if "dataset" not in given and options.mode not in (*METHODS, "check_data"):
        values["dataset"] = None
    return argparse.Namespace(**values)


# ---- dispatch ---------------------------------------------------------------------------------------

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
    devices.keep_freed_memory()
    mode, more = MODES[options.mode], {}
    options.sample_dir = options.sample_dir or mode.results
    trains = options.mode in METHODS
    if trains:
        more["defaults"] = vars(parse([f"--mode={options.mode}", f"--dataset={options.dataset}"]))
    try:
        with distributed.joined(options.mode, SEVERAL), devices.failures_told(options, trains):
            if options.prefix is not None and distributed.main():
                print(f"note: --prefix={options.prefix} is ignored; the published program does not use it either")
            return mode.run(options, devices.resolve(options, trains), **more)
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
    distributed.leave(main())
