"""A trained model and its predictions.

>>> from inference import load_run
>>> prediction = load_run("runs/car").predict(images)      # images (B, 4, 64, 64) in [0, 1]
>>> prediction.vertices, prediction.faces, prediction.codes
"""
import os
from dataclasses import dataclass

import torch

import neural_renderer as nr
from datasets import DATASETS, DEFAULT
from engine import checkpoints, weights
from engine.arguments import need
from errors import Divergence, InputError
from losses.priors import orientation
from models import MeshDecoder, SymmetricMeshDecoder, TextureDecoder, icosphere, make_encoder


RUNS = {"runs": dict(nargs="+", metavar="DIR",
                     help="several run folders, side by side (compare: evaluated ones)")}


@dataclass
class Prediction:
    vertices: torch.Tensor  # (B, V, 3) in the renderer's frame (see readers/conventions.py)
    faces: torch.Tensor     # (F, 3)
    codes: torch.Tensor     # (B, latent_dim)
    outward: int = 1        # -1 if the template's faces are clockwise seen from outside
    textures: torch.Tensor | None = None  # (B, F, T, T, T, 3) in [0, 1], of a run with --texture

    def cpu(self):
        textures = None if self.textures is None else self.textures.cpu()
        return Prediction(self.vertices.cpu(), self.faces.cpu(), self.codes.cpu(), self.outward, textures)


def load_template(path: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(vertices, faces) of the template mesh: an OBJ file, not normalised, or the icosphere."""
    if path is None:
        return icosphere(3)
    try:
        vertices, faces = nr.load_obj(path, normalization=False, device="cpu")
    except (OSError, ValueError) as error:
        raise InputError(f"--obj_dir={path} is not a template mesh that can be read: {error}") from None
    return vertices, faces.long()


def _texture_decoder(options, template, faces, encoder, channels):
    """The `TextureDecoder` of the options (a dict), None without --texture. It draws its weights aside, so that the
    other networks begin as they do without it."""
    if options.get("texture", "none") == "none":
        return None
    own = options["texture_dim"]
    with torch.random.fork_rng(devices=[]):
        return TextureDecoder(template, faces, 1 if options["texture"] == "faces" else options["texture_size"],
                              own or options["latent_dim"], encoder.num_features if own else None, channels)


class Model:
    """The encoder and decoder of a run, with the conventions of its dataset."""

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
        self.texture = _texture_decoder(options, template, self.faces, self.encoder, self.dataset.channels)
        self.outward = orientation(template, self.faces)  # -1: the faces are clockwise seen from outside
        self.step = 0
        self.source = None

    @property
    def device(self):
        return self.faces.device

    def to(self, device):
        self.encoder.to(device)
        if self.decoder is not None:
            self.decoder.to(device)
        if self.texture is not None:
            self.texture.to(device)
        self.faces = self.faces.to(device)
        return self

    def modules(self):
        return {"E": self.encoder, "G": self.decoder, **({"T": self.texture} if self.texture is not None else {})}

    def read(self, images):
        """Shape codes (B, latent_dim) and colour codes (B, d), None without --texture, of images."""
        features = self.encoder.features(images)
        codes = self.encoder.code(features)
        return codes, None if self.texture is None else self.texture.code(images, codes, features)

    def predict(self, images: torch.Tensor, batch_size: int = 256) -> Prediction:
        """`Prediction` from images (B, C, H, W), float in [0, 1], of the training's size. C is 4, RGBA; for Pascal3D
        it is 3, RGB."""
        codes, colour_codes = self.codes(images, batch_size)
        vertices = self.decode(codes, batch_size)
        if not torch.isfinite(vertices).all():
            raise Divergence(f"the model of step {self.step} predicts vertices that are not finite")
        return Prediction(vertices, self.faces, codes, self.outward, self.colour(colour_codes, batch_size))

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Vertices (B, V, 3) in the renderer's frame from shape codes (B, latent_dim)."""
        was_training = self.decoder.training
        self.decoder.eval()
        vertices = [self.decoder(part) for part in codes.to(self.device).split(batch_size)]
        self.decoder.train(was_training)
        return torch.cat(vertices)

    @torch.no_grad()
    def colour(self, colour_codes: torch.Tensor | None, batch_size: int = 256) -> torch.Tensor | None:
        """Textures (B, F, T, T, T, 3) of colour codes; None for None."""
        if colour_codes is None:
            return None
        return torch.cat([self.texture.cubes(self.texture(part))
                          for part in colour_codes.to(self.device).split(batch_size)])

    def encode(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Shape codes (B, latent_dim) from images, as in `predict`."""
        return self.codes(images, batch_size)[0]

    @torch.no_grad()
    def codes(self, images, batch_size=256):
        """Shape codes (B, latent_dim) and colour codes (B, d), None without --texture, from images, as in `predict`."""
        side = self.options["img_size"]
        if not isinstance(images, torch.Tensor) or images.dim() != 4 or \
                images.shape[1:] != (self.dataset.channels, side, side) or not images.is_floating_point():
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, torch.Tensor) \
                else type(images).__name__
            raise ValueError(f"images must be a float tensor of shape (B, {self.dataset.channels}, "
                             f"{side}, {side}), got {got}")
        was_training = self.encoder.training
        self.encoder.eval()
        codes, colours = zip(*[self.read(part.to(self.device)) for part in images.split(batch_size)])
        self.encoder.train(was_training)
        return torch.cat(codes), None if self.texture is None else torch.cat(colours)


def load_run(folder: str | os.PathLike, flag: str = "last", device: str | torch.device = "cpu",
             settings: dict | None = None) -> Model:
    """The `Model` of a run folder; flag 'last', 'best' or the step of a numbered checkpoint.

    settings : dict of options such as dataset and obj_dir (the template), for a folder of the published program
        (`<flag>-E.ckpt` and `<flag>-G.ckpt`), which does not contain them.
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
        raise InputError(f"the options in the checkpoint of {folder} do not give a model: "
                         f"{type(error).__name__}: {error}") from None
    refuse_other_dataset(settings or {}, model, f"the run in {folder}")
    for name, module in model.modules().items():
        try:
            module.load_state_dict(state["models"][name])
        except (RuntimeError, KeyError) as error:
            raise InputError(f"the checkpoint in {folder} does not fit its own options: "
                             f"{str(error).splitlines()[0]}") from None
    refuse_other_texture(settings or {}, model, f"the run in {folder}")
    model.step, model.source = state["step"], folder
    return model.to(device)


def refuse_other_dataset(settings, model, source):
    """Raise InputError if --dataset is not the dataset of the training."""
    if settings.get("dataset") not in (None, model.dataset.name):
        raise InputError(f"--dataset={settings['dataset']}: {source} was trained on {model.dataset.name} and "
                         "needs its cameras and files; leave --dataset out")


def refuse_other_texture(settings, model, source):
    """Raise InputError if --texture asks for colours that a model does not have."""
    asked, has = settings.get("texture") or "none", model.options.get("texture", "none")
    if asked not in ("none", has):
        raise InputError(f"--texture={asked}: {source} was trained " + (
            "without colours" if has == "none" else f"with --texture={has}") + f"; train one with --texture={asked}")


def split_of(options, dataset):
    """--split, or the split that the published program uses in this mode."""
    return options.split or (dataset.tsne_split if options.mode == "t_SNE" else dataset.eval_split)


def open_split(model, options, split=None, **more):
    """Open a split (default: `split_of`) of a run's dataset, or of --data_dir."""
    data_dir = options.data_dir or model.options.get("data_dir")
    if data_dir is None:
        raise InputError(f"{model.source} does not contain its dataset: give --data_dir, and --dataset if it is not "
                         f"{model.dataset.name}")
    class_ids = more.pop("class_ids", None) or options.class_ids or model.options.get("class_ids") \
        or model.dataset.available(data_dir, model.options)
    trained = {**model.options, **{name: getattr(options, name) for name in ("split_file", "skip_bad", "cache_dir")
                                   if getattr(options, name)}}
    if options.data_dir and not options.cache_dir:
        trained["cache_dir"] = None  # the run's cache belongs to the run's own data
    return model.dataset.open(trained, split or split_of(options, model.dataset), options.data_dir, class_ids, **more)


def load_weights(load_E: str, load_G: str | None = None, device: str | torch.device = "cpu",
                 settings: dict | None = None) -> Model:
    """The `Model` of an encoder file and a decoder file: state dicts of the published program, or run files.

    load_G : None makes a model without a decoder, which only encodes.
    settings : dict of options that a state dict does not contain: dataset (default CVPR18), obj_dir (the template;
        default an icosphere). A run file contains them.
    """
    settings = settings or {}
    encoder, run = weights.read_encoder(load_E, DATASETS[settings.get("dataset") or DEFAULT])
    decoder, other_run = weights.read(load_G, "G") if load_G else ({}, {})
    coloured = other_run.get("options", {}).get("texture", "none") != "none"
    load_T = settings.get("load_T") or (load_G if coloured else None)
    colours, coloured_run = weights.read(load_T, "T") if load_T and load_G else ({}, {})
    known = {"dataset": DEFAULT, "latent_dim": 512, "img_size": 64, "enc_width": 64,
             **{name: value for name, value in settings.items() if value is not None}, **run.get("options", {}),
             **weights.sizes(encoder, f"--load_E={load_E}")}
    known["obj_dir"] = settings.get("obj_dir") or other_run.get("options", {}).get("obj_dir")
    asked = coloured_run.get("options", settings)
    known |= {name: asked.get(name) for name in ("texture", "texture_size", "texture_dim")} if colours else \
        {"texture": "none"}
    takes = decoder["fclayers.0.weight"].shape[1:] if "fclayers.0.weight" in decoder else ()
    if takes and takes[0] != known["latent_dim"]:
        raise InputError(f"--load_E={load_E} gives codes of {known['latent_dim']} numbers, but --load_G={load_G} "
                         f"takes {takes[0]}: they are from different runs")
    try:
        model = Model(known)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the options in --load_E={load_E} do not give a model: {type(error).__name__}: "
                         f"{error}") from None
    refuse_other_dataset(settings, model, f"--load_E={load_E}")
    weights.put_into(model.encoder, encoder, f"--load_E={load_E}", "E")
    if load_G:
        weights.put_into(model.decoder, decoder, f"--load_G={load_G}", "G")
    else:
        model.decoder = None
    if colours:
        if model.texture is None:
            raise InputError(f"--load_T={load_T} does not tell what it is of: give the --texture, --texture_size and "
                             "--texture_dim of its training")
        weights.put_into(model.texture, colours, f"--load_T={load_T}", "T")
    refuse_other_texture(settings, model, f"--load_G={load_G}")
    model.step, model.source = run.get("step"), load_E
    return model.to(device)


def need_model(options):
    """Raise InputError if the options name no model."""
    if options.load_E is None and options.load_G is None:
        need(options, "ckpt_dir")


def open_model(options, device):
    """The `Model` of --load_E and --load_G, or of --ckpt_dir."""
    if options.load_E or options.load_G:
        if not (options.load_E and options.load_G):
            raise InputError(f"--mode={options.mode} needs --load_E and --load_G together, an encoder and its "
                             "decoder")
        if len(options.load_E) > 1:
            raise InputError(f"--load_E: --mode={options.mode} takes one encoder, got {len(options.load_E)}")
        return load_weights(options.load_E[0], options.load_G, device, vars(options))
    return load_run(options.ckpt_dir, options.eval_flag, device, vars(options))


def open_runs(options, device):
    """[(name, model, data)] for each run of --runs, --ckpt_dir or --load_E, with its split."""
    folders = options.runs or ([options.ckpt_dir] if options.ckpt_dir and not options.load_E else [])
    if not (folders or options.load_E):
        raise InputError(f"--mode={options.mode} needs --ckpt_dir, --runs with several run folders, or --load_E")
    settings = vars(options)
    models = [load_run(folder, options.eval_flag, device, settings) for folder in folders]
    models += [load_weights(path, None, device, settings) for path in options.load_E or []]
    names = [*folders, *(options.load_E or [])]
    for model, name in zip(models, names):
        if model.options["latent_dim"] != models[0].options["latent_dim"]:
            raise InputError(f"{names[0]} and {name} have codes of different --latent_dim, "
                             f"{models[0].options['latent_dim']} and {model.options['latent_dim']}, so their "
                             "figures cannot be compared: give them one by one")
    return [(name, model, open_split(model, options)) for name, model in zip(names, models)]


def label(path):
    """A short name of a run: the name of its folder; for a file, the names of folder and file."""
    path = os.path.normpath(path)
    return os.path.join(*path.split(os.sep)[-2:]) if os.path.isfile(path) else os.path.basename(path)


def refuse_two_folders(options):
    """Raise InputError for --ckpt_dir with --runs or --load_E: figures of other runs would overwrite its own in
    CKPT_DIR/samples."""
    for name in ("runs", "load_E"):
        if options.ckpt_dir is not None and getattr(options, name) is not None:
            raise InputError(f"--ckpt_dir={options.ckpt_dir} and --{name} together: --mode={options.mode} takes one of "
                             "them; several runs are named with --runs, and where to write with --sample_dir")
