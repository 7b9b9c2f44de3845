"""A trained model and what it predicts: the part that every mode shares.

>>> from inference import load_run
>>> prediction = load_run("runs/car").predict(images)      # images (B, 4, 64, 64) in [0, 1]
>>> prediction.vertices, prediction.faces, prediction.codes
"""
import os
from dataclasses import dataclass

import numpy as np
import torch

import neural_renderer as nr
import weights
from datasets import DATASETS
from engine import checkpoints, distributed
from errors import Divergence, InputError
from metrics import mean_shape, pairwise_iou, pose_mmd, shared_bins, voxel_iou
from models import MeshDecoder, SymmetricMeshDecoder, icosphere, make_encoder


@dataclass
class Prediction:
    vertices: torch.Tensor  # (B, V, 3) in the renderer's frame (see datasets.py)
    faces: torch.Tensor     # (F, 3)
    codes: torch.Tensor     # (B, latent_dim)

    def cpu(self):
        return Prediction(self.vertices.cpu(), self.faces.cpu(), self.codes.cpu())


def load_template(path=None):
    """(vertices, faces) of the template mesh: an OBJ file as it is, or the icosphere."""
    if path is None:
        return icosphere(3)
    try:
        vertices, faces = nr.load_obj(path, normalization=False, device="cpu")
    except (OSError, ValueError) as error:
        raise InputError(f"--obj_dir={path} is not a template mesh that can be read: {error}") from None
    return vertices, faces.long()


class Model:
    """Encoder and decoder of a run, with the conventions of the dataset it was trained on."""

    def __init__(self, options):
        """options : dict with dataset, latent_dim, img_size, enc_width, and the template."""
        self.options = options
        self.dataset = DATASETS[options["dataset"]]
        template, self.faces = load_template(options.get("obj_dir"))
        self.encoder = make_encoder(options["img_size"], self.dataset.channels, options["latent_dim"],
                                    options["enc_width"])
        decoder = SymmetricMeshDecoder if options.get("symmetric") else MeshDecoder
        try:
            self.decoder = decoder(template, options["latent_dim"])
        except ValueError as error:
            raise InputError(f"--obj_dir={options.get('obj_dir')} with --symmetric: {error}") from None
        self.step = 0
        self.source = None

    @property
    def device(self):
        return self.faces.device

    def to(self, device):
        self.encoder.to(device)
        if self.decoder is not None:
            self.decoder.to(device)
        self.faces = self.faces.to(device)
        return self

    def modules(self):
        return {"E": self.encoder, "G": self.decoder}

    def predict(self, images, batch_size=256):
        """`Prediction` from RGBA images (B, 4, H, W), float in [0, 1], of the size trained on."""
        codes = self.encode(images, batch_size)
        vertices = self.decode(codes, batch_size)
        if not torch.isfinite(vertices).all():
            raise Divergence(f"the model of step {self.step} predicts vertices that are not finite")
        return Prediction(vertices, self.faces, codes)

    @torch.no_grad()
    def decode(self, codes, batch_size=256):
        """Vertices (B, V, 3), renderer's frame, of shape codes (B, latent_dim)."""
        was_training = self.decoder.training
        self.decoder.eval()
        vertices = [self.decoder(part) for part in codes.to(self.device).split(batch_size)]
        self.decoder.train(was_training)
        return torch.cat(vertices)

    @torch.no_grad()
    def encode(self, images, batch_size=256):
        """Shape codes (B, latent_dim) of images as `predict` takes them."""
        side = self.options["img_size"]
        if not isinstance(images, torch.Tensor) or images.dim() != 4 or \
                images.shape[1:] != (self.dataset.channels, side, side) or not images.is_floating_point():
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) \
                else type(images).__name__
            raise ValueError(f"images must be a float tensor of shape (B, {self.dataset.channels}, "
                             f"{side}, {side}), got {got}")
        was_training = self.encoder.training
        self.encoder.eval()
        codes = [self.encoder(part.to(self.device)) for part in images.split(batch_size)]
        self.encoder.train(was_training)
        return torch.cat(codes)


def load_run(folder, flag="last", device="cpu", settings=None):
    """The `Model` of a run folder; flag 'last', 'best' or the step of a numbered checkpoint.

    settings : dict, for a folder of the published program, `<flag>-E.ckpt` and `<flag>-G.ckpt`, which does not
        tell them: options such as dataset and obj_dir (the template).
    """
    published = [os.path.join(folder, f"{flag}-{part}.ckpt") for part in "EG"]
    ours = checkpoints.BEST, *checkpoints.NEWEST_FIRST
    if os.path.exists(published[0]) and not any(os.path.exists(os.path.join(folder, name)) for name in ours):
        name = os.path.basename(os.path.normpath(folder))
        if name.startswith("ckpt3D_"):
            settings = {**(settings or {}), "class_ids": [name[len("ckpt3D_"):]]}
        model = load_weights(*published, device, settings)
        model.source = folder
        return model
    name = checkpoints.BEST if flag == "best" else checkpoints.step_name(int(flag)) if flag != "last" else None
    state = checkpoints.load(os.path.join(folder, name)) if name else checkpoints.load_last(folder)
    try:
        model = Model(state["options"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint in {folder} has options that make no model: "
                         f"{type(error).__name__}: {error}") from None
    refuse_other_dataset(settings or {}, model, f"the run in {folder}")
    for name, module in model.modules().items():
        try:
            module.load_state_dict(state["models"][name])
        except (RuntimeError, KeyError) as error:
            raise InputError(f"the checkpoint in {folder} does not fit its own options: "
                             f"{str(error).splitlines()[0]}") from None
    model.step, model.source = state["step"], folder
    return model.to(device)


def refuse_other_dataset(settings, model, source):
    """A model goes with the cameras and files of the dataset that it was trained on."""
    if settings.get("dataset") not in (None, model.dataset.name):
        raise InputError(f"--dataset={settings['dataset']}: {source} was trained on {model.dataset.name}, whose "
                         "cameras and files it goes with; leave --dataset out")


def choose_split(options, dataset):
    """Settle --split: the one that the published program takes for a mode, where none is given."""
    if options.split is None:
        options.split = dataset.tsne_split if options.mode == "t_SNE" else dataset.eval_split


def open_split(model, options, split=None, **more):
    """A split (default: --split) of what a run was trained on, or of the files that are given instead."""
    choose_split(options, model.dataset)
    data_dir = options.data_dir or model.options.get("data_dir")
    if data_dir is None:
        raise InputError(f"{model.source} does not say what it was trained on: give --data_dir, and --dataset if "
                         f"it is not {model.dataset.name}")
    class_ids = more.pop("class_ids", None) or options.class_ids or model.options.get("class_ids") \
        or model.dataset.available(data_dir, model.options)
    trained = {**model.options, **{name: getattr(options, name) for name in ("split_file", "skip_bad", "cache_dir")
                                   if getattr(options, name)}}
    if options.data_dir and not options.cache_dir:
        trained["cache_dir"] = None  # that of the run's own data
    return model.dataset.open(trained, split or options.split, options.data_dir, class_ids, **more)


def load_weights(load_E, load_G=None, device="cpu", settings=None):
    """The `Model` of an encoder and a decoder file: state dicts of the published program, or run files.

    load_G : without it the model has no decoder, it only encodes.
    settings : dict, options that a state dict does not tell: dataset (CVPR18), obj_dir (the template; an
        icosphere). A run file tells them itself.
    """
    settings = settings or {}
    encoder, run = weights.read_encoder(load_E, DATASETS[settings.get("dataset") or "CVPR18"])
    decoder, other_run = weights.read(load_G, "G") if load_G else ({}, {})
    known = {"dataset": "CVPR18", "latent_dim": 512, "img_size": 64, "enc_width": 64,
             **{name: value for name, value in settings.items() if value is not None}, **run.get("options", {}),
             **weights.sizes(encoder, f"--load_E={load_E}")}
    known["obj_dir"] = settings.get("obj_dir") or other_run.get("options", {}).get("obj_dir")
    takes = decoder["fclayers.0.weight"].shape[1:] if "fclayers.0.weight" in decoder else ()
    if takes and takes[0] != known["latent_dim"]:
        raise InputError(f"--load_E={load_E} gives codes of {known['latent_dim']} numbers, --load_G={load_G} "
                         f"takes {takes[0]}: they are not of one run")
    try:
        model = Model(known)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--load_E={load_E} has options that make no model: {type(error).__name__}: "
                         f"{error}") from None
    refuse_other_dataset(settings, model, f"--load_E={load_E}")
    weights.put_into(model.encoder, encoder, f"--load_E={load_E}", "E")
    if load_G:
        weights.put_into(model.decoder, decoder, f"--load_G={load_G}", "G")
    else:
        model.decoder = None
    model.step, model.source = run.get("step"), load_E
    return model.to(device)


def open_model(options, device):
    """The `Model` that --load_E and --load_G, or --ckpt_dir, name."""
    if options.load_E or options.load_G:
        if not (options.load_E and options.load_G):
            raise InputError(f"--mode={options.mode} needs --load_E and --load_G together, an encoder and its "
                             "decoder")
        if len(options.load_E) > 1:
            raise InputError(f"--load_E: --mode={options.mode} takes one encoder, got {len(options.load_E)}")
        return load_weights(options.load_E[0], options.load_G, device, vars(options))
    return load_run(options.ckpt_dir, options.eval_flag, device, vars(options))


def score(model, data, objects_at_once=8, full=False, mean_grids=None, progress=None, mmd_codes=None,
          seed=0):
    """Measure a model on every view of every object of a split.

    Parameters
    ----------
    data : a dataset whose objects have all their views.
    full : also the controls (below), which the validation during training leaves out.
    mean_grids : {class_id: (n, n, n) bool}, with `full`: mean shapes of the training set.
    mmd_codes : int. MMD is taken of the first so many codes of a class, object by object; None takes all.
    seed : permutes the pose labels of `mmd_shuffled`.

    Returns
    -------
    dict of {class_id: figure}: `iou` (mean over all views of voxel IoU) and `mmd`; with `full` also
    `iou_wrong_object` (each prediction against up to 20 other objects of its class),
    `view_agreement` (IoU of the shapes predicted from any two views of one object), `mean_shape_iou`,
    and `mmd_shuffled` (pose labels permuted).
    """
    result = {key: {} for key in ("iou", "mmd") + (
        ("iou_wrong_object", "view_agreement", "mean_shape_iou", "mmd_shuffled") if full else ())}
    done = 0
    for c, class_id in enumerate(data.class_ids):
        numbers = data.images_of_class(c)
        objects = np.flatnonzero(data.object_class == c)
        views = len(numbers) // len(objects)
        truth = data.voxels(objects).to(model.device)
        # In order, and added up in order, whichever process has measured what.
        figures = torch.zeros(len(objects), 3, dtype=torch.float64, device=model.device)
        codes = torch.zeros(len(numbers), model.options["latent_dim"], device=model.device)
        poses, shown = data.all_poses()[numbers], data.all_objects()[numbers]
        for k, first in enumerate(range(0, len(objects), objects_at_once)):
            places = slice(first * views, (first + objects_at_once) * views)
            if k % distributed.size() == distributed.rank():
                prediction = model.predict(data.read(numbers[places]).to(model.device).as_numbers().images)
                grids = data.voxelize(prediction.vertices, prediction.faces)
                codes[places] = prediction.codes.float()
                for o, shapes in enumerate(grids.split(views), first):
                    figures[o, 0] = voxel_iou(shapes, truth[o]).mean()
                    if full:
                        figures[o, 1:] = _controls(shapes, truth, o)
            done += len(numbers[places])
            if progress:
                progress(done)
        figures, codes = distributed.filled_in(figures), distributed.filled_in(codes).cpu()
        mean = [sum(column) / len(objects) for column in figures.T.tolist()]
        codes, poses, shown = codes[:mmd_codes], poses[:mmd_codes], shown[:mmd_codes]
        bins = shared_bins(poses, shown, data.num_poses)
        result["iou"][class_id] = mean[0]
        result["mmd"][class_id] = pose_mmd(codes, poses, bins)[1]
        if full:
            result["iou_wrong_object"][class_id], result["view_agreement"][class_id] = mean[1:]
            result["mean_shape_iou"][class_id] = float(
                voxel_iou(truth, mean_grids[class_id][None].to(truth.device)).mean())
            result["mmd_shuffled"][class_id] = pose_mmd(codes, poses, bins, seed)[1]
    return result


def _controls(shapes, truth, o):
    """IoU of the shapes (views, n, n, n) predicted for object o with others of its class, and with each other."""
    others = [(o + shift) % len(truth) for shift in range(1, min(len(truth), 21))]
    agreement = pairwise_iou(shapes, shapes)
    wrong = pairwise_iou(shapes, truth[others]).mean() if others else agreement.new_full((), float("nan"))
    return torch.stack([wrong, agreement[tuple(torch.tril_indices(len(shapes), len(shapes), -1))].mean()])


def mean_shapes(train_data):
    """{class_id: (n, n, n) bool}: the one mean voxel grid of each class of a training set."""
    return {class_id: mean_shape(train_data.voxels(np.flatnonzero(train_data.object_class == c)))[0]
            for c, class_id in enumerate(train_data.class_ids)}
