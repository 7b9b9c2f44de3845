"""Reads weights: state dicts of the published program, or run files of this one.

A state dict holds one network: `convBlocks.N.*`, `FC.N.*`, `shapeLayer.*` of an encoder (E), or `model.*` of a ResNet;
`fclayers.N.*`, `bias_layer.*` of a mesh decoder (G); `fclayers.N.*`, `colour_layer.*` of a texture decoder (T), which
is this program's own; `hidden_layer0.*`, `hidden_layer1.*`, `digit_layer.*` of a pose discriminator (D), or
`model.N.*`, `adv_layer.0.*` of VPL's. Layers are matched by the order of their numbers N, not by the numbers
themselves.
"""
import os
import re
import warnings
import zipfile

import torch

from engine import checkpoints
from errors import InputError

KINDS = {"E": "an encoder", "G": "a mesh decoder", "T": "a texture decoder", "D": "a discriminator"}
WRAPPERS = ("module.", "_orig_mod.")  # of torch.nn.DataParallel, of torch.compile
UNUSED = ("muLayer.", "logvarLayer.")  # layers of a variational encoder, which no published run uses
# {prefix in the published program: our prefix}, for names that differ. None: the weight is not used, because the
# published program takes the ResNet's features before `fc`.
PUBLISHED = {"E": {"model.fc.": None, "model.": ""}, "G": {}, "T": {},
             "D": {"model.": "convBlocks.", "adv_layer.0.": "digit_layer."}}


def read(path, part):
    """Read network E, G or D from a file.

    Returns
    -------
    ({name: tensor}, run); run is {'options', 'step'} of a run file, {} for a bare state dict.
    """
    state, run = open_safely(path, f"--load_{part}={path}"), {}
    if isinstance(state, dict) and {"models", "options", "step"} <= set(state):
        run = {"options": state["options"], "step": state["step"]}
        if not isinstance(run["options"], dict) or not isinstance(state["models"], dict):
            raise InputError(f"{path} is not a run file of this program: options and models must be dictionaries")
        state = state["models"].get(part)
        if state is None:
            raise InputError(f"--load_{part}={path} is of a run without {KINDS[part]}")
    if not isinstance(state, dict) or not state or not all(
            isinstance(key, str) and _is_weight(value) for key, value in state.items()):
        raise InputError(f"--load_{part}={path} is neither a run file nor a state dict, names with their tensors")
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise InputError(f"--load_{part}={path}: {key} is not finite")
    state = _unwrapped(state)
    if not run:
        state = _in_our_names(state, part)
    return {key: value for key, value in state.items() if not key.startswith(UNUSED)}, run


def _unwrapped(state):
    """A state dict without the prefixes that all its names have from a wrapped module."""
    while prefix := next((p for p in WRAPPERS if state and all(str(key).startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _in_our_names(state, part):
    """Convert names in a bare state dict of a ResNet or of VPL's discriminator from the published program to ours."""
    renamed = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in PUBLISHED[part] if key.startswith(prefix)), None)
        if prefix is None:
            renamed[key] = value
        elif PUBLISHED[part][prefix] is not None:
            renamed[PUBLISHED[part][prefix] + key[len(prefix):]] = value
    return renamed


def _published_name(name, own, part):
    """The name in the published program of the weight `name` of a network with the weights `own`."""
    if part == "E" and "conv1.weight" in own:
        return "model." + name
    if part == "D" and "convBlocks.0.weight" in own:
        return name.replace("convBlocks.", "model.").replace("digit_layer.", "adv_layer.0.")
    return name


def read_encoder(path, dataset):
    """The same for the encoder of a dataset. If the published program read this dataset as BGR, reorders the first
    layer to RGB."""
    weights, run = read(path, "E")
    first = f"convBlocks.{min(_numbers(weights, 'convBlocks'), default=None)}.weight"
    if dataset.published_bgr and not run and first in weights and weights[first].dim() == 4:
        colours = weights[first]
        weights[first] = torch.cat([colours[:, :3].flip(1), colours[:, 3:]], 1)
    return weights, run


def open_safely(path, option):
    """Read a zip file, or the plain pickle that PyTorch wrote before 1.6. Nothing in the file can run code."""
    if not os.path.isfile(path):
        raise InputError(f"{option}: there is no such file")
    if zipfile.is_zipfile(path):
        return checkpoints.read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickles that it did not write
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other files raise many kinds of errors
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{option} is not a file of weights that can be read safely: {reason}") from None


def _is_weight(value):
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized \
        and not value.is_complex()


def sizes(weights, option):
    """{'img_size', 'enc_width', 'latent_dim'} of an encoder, from its weights; {} if they do not determine them."""
    convolutions = _numbers(weights, "convBlocks")
    if not convolutions and weights.get("conv1.weight", torch.empty(())).dim() == 4:
        width = len(weights["conv1.weight"])
        return {"img_size": 224, "enc_width": width, "latent_dim": 8 * width}
    if not convolutions and "shapeLayer.weight" not in weights:
        return {}
    try:
        first, last = weights[f"convBlocks.{convolutions[0]}.weight"], weights["shapeLayer.weight"]
        return {"img_size": {3: 64, 4: 128}[len(convolutions)], "enc_width": first.shape[0],
                "latent_dim": last.shape[0]}
    except (KeyError, IndexError):
        raise InputError(f"{option} is not an encoder of the published kind: 3 or 4 convBlocks.N, FC.N and "
                         f"shapeLayer; it has {_some(weights)}") from None


def put_into(module, weights, option, part):
    """Load weights into a module. Raises InputError that names the first weight that is missing, unknown or of another
    shape."""
    own = module.state_dict()
    names = {}
    for block in {name.partition(".")[0] for name in own}:
        theirs, ours = _numbers(weights, block), _numbers(own, block)
        if len(theirs) == len(ours):
            names.update(zip(((block, number) for number in theirs), ours))
    given = {}
    for name, value in weights.items():
        block, number, rest = _parts(name)
        given[name if number is None else f"{block}.{names.get((block, number), number)}.{rest}"] = value
    for name in own:
        if name not in given:
            published = _published_name(name, own, part)
            missing = f"{name} is missing" if published == name else \
                f"{name} is missing, and so is {published}, its name in the published program"
            raise InputError(f"{option} does not fit {KINDS[part]} of this kind: {missing}; it has {_some(weights)}")
    for name, value in given.items():
        if name not in own:
            raise InputError(f"{option} does not fit {KINDS[part]} of this kind: it has {name}, which is none of "
                             "its weights")
        if value.shape != own[name].shape:
            raise InputError(f"{option}: {name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
                             + (TEMPLATE if name.startswith("bias_layer.") else ""))
    module.load_state_dict(given)


TEMPLATE = ": --obj_dir must name the template mesh it was trained with"


def _parts(name):
    """('convBlocks', 2, 'weight') for 'convBlocks.2.weight'; the number is None if there is none."""
    found = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", name)
    return (found[1], int(found[2]), found[3]) if found else (name.partition(".")[0], None, name)


def _numbers(weights, block):
    return sorted({number for b, number, _ in map(_parts, weights) if b == block and number is not None})


def _some(weights):
    names = sorted(weights)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def given(options):
    return bool(options.load_E or options.load_G or options.load_T or options.load_D or options.resnet_weights)


def start_from(modules, options, dataset):
    """Load --resnet_weights, --load_E, --load_G, --load_T and --load_D into the networks of a new training."""
    if options.resnet_weights:
        load_resnet(modules["E"], options.resnet_weights)
    for part in KINDS:
        path = getattr(options, f"load_{part}")
        if path is None:
            continue
        if part == "E":
            if len(path) > 1:
                raise InputError(f"--load_E: a training starts from one encoder, got {len(path)}")
            path = path[0]
        option = f"--load_{part}={path}"
        if part not in modules:
            if part == "T":
                raise InputError(f"{option}: with --texture=none there are no colours; give the --texture it is of")
            if options.lambda_adv > 0:
                continue  # the discriminator does not exist yet: its size depends on the data
            raise InputError(f"{option}: with --lambda_adv=0 there is no discriminator")
        weights, _ = read_encoder(path, dataset) if part == "E" else read(path, part)
        for name, value in sizes(weights, option).items() if part == "E" else ():
            if value != getattr(options, name):
                raise InputError(f"{option} has --{name}={value}, this run --{name}={getattr(options, name)}")
        put_into(modules[part], weights, option, part)


def load_resnet(encoder, path):
    """Load torchvision's published file; reads tensors only."""
    state = open_safely(path, f"--resnet_weights={path}")
    if isinstance(state, dict):
        state = _unwrapped(state)
    try:
        encoder.load_torchvision(state)
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"--resnet_weights={path} does not hold torchvision's weights of a ResNet-18: "
                         f"{(str(error) or type(error).__name__).splitlines()[0][:200]}") from None
