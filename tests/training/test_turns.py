"""A training step must not copy between device and host: that would wait for a GPU, and a CUDA graph could not record
it. These tests need no GPU: they use torch's meta device, whose tensors have shapes but no numbers."""
import contextlib
from types import SimpleNamespace

from losses import matches, priors
import pytest
import torch
from command import script
from datasets import DATASETS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
WAITS = ("_local_scalar_dense", "nonzero", "bincount", "unique", "item")


class Watch(TorchDispatchMode):
    """Records operators that use a CPU tensor or read numbers."""

    def __init__(self):
        super().__init__()
        self.seen, self.found = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs or {}, result)) if isinstance(t, torch.Tensor)]
        self.seen += 1
        if any(t.device.type == "cpu" for t in tensors) or any(word in str(function) for word in WAITS):
            self.found.add(str(function))
        return result


class NoSteps:
    """Replaces the optimisers: Adam's fused step has no meta kernel. torch guarantees that it does not wait
    (`capturable`)."""

    def __init__(self, module):
        self.module = module

    def zero_grad(self, set_to_none):
        self.module.zero_grad(set_to_none)

    def step(self):
        assert any(p.grad is not None for p in self.module.parameters())


def on_meta(monkeypatch, arguments):
    """A trainer on the meta device, and inputs of a turn for it."""
    import neural_renderer as nr
    from training import Trainer
    options = script().parse([*arguments, "--batch_size=4"])
    monkeypatch.setattr(matches.Bank, "of", lambda data, device: bank(options))
    monkeypatch.setattr(priors, "find_mirror", lambda data: (0, 1.0))
    monkeypatch.setattr(priors, "find_cameras", lambda data: torch.eye(3))
    dataset = DATASETS[options.dataset]
    data = SimpleNamespace(num_poses=10, name=options.dataset, mirror_planes=dataset.mirror_planes,
                           plane_named=dataset.plane_named, num_views=dataset.num_views, augments=dataset.augments,
                           mirrored=dataset.mirrored, all_poses=lambda: torch.arange(10))
    wanted = options.dataset == "Pascal3D" or options.lambda_near
    trainer = Trainer(options, torch.device("cpu"), data if wanted else None)
    trainer.later = {name: weight.to(META) for name, weight in trainer.later.items()}
    if "flat" in trainer.prepared:
        sides = trainer.prepared["flat"]
        sides.cameras, sides.away = sides.cameras.to(META), sides.away.to(META)
    for name, module in trainer.modules.items():
        module.to(META)
        trainer.optimizers[name] = NoSteps(module)
    trainer.model.faces, trainer.device = trainer.model.faces.to(META), META
    trainer.topology.to(META)
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    for module in (nr.renderer, nr.ops):  # on a GPU, indices are looked at once for each tensor
        monkeypatch.setattr(module, "check_faces", lambda *a: None)
    side, silhouette = options.img_size, trainer.dataset.silhouette_size(options.img_size)
    poses = torch.zeros(4, dtype=torch.int64, device=META)
    cameras = {"CVPR18": poses, "NIPS17": torch.zeros(4, 3, device=META),
               "Pascal3D": torch.zeros(4, 3, 3, device=META)}[options.dataset]
    inputs = (torch.zeros(4, trainer.dataset.channels, side, side, device=META),
              torch.zeros(4, silhouette, silhouette, device=META), cameras, poses, poses, poses)
    views = {"front": (torch.zeros(4, 3, 3, device=META), poses)}
    return trainer, inputs + sum((views.get(name, (cameras, poses)) for name in trainer.views), ())


def bank(options):
    """A bank of 6 images on the meta device."""
    dataset = DATASETS[options.dataset]
    side = dataset.silhouette_size(options.img_size)
    camera = {"CVPR18": (), "NIPS17": (3,), "Pascal3D": (3, 3)}[options.dataset]
    kind = torch.int64 if options.dataset == "CVPR18" else torch.float32
    return matches.Bank(torch.zeros(6, side, side, dtype=torch.uint8, device=META),
                        torch.zeros(6, side * side // 4, dtype=torch.uint8, device=META),
                        torch.zeros(6, *camera, dtype=kind, device=META), [torch.arange(6)])


@pytest.mark.parametrize("arguments", [
    ("--mode=train", "--lambda_Lap=1", "--lambda_edge=1", "--standardize_code", "--enc_width=4"),
    ("--mode=train", "--preset=best", "--pairs=2", "--replay=2", "--near_from=9", "--enc_width=4"),
    ("--mode=train", "--preset=best", "--dataset=NIPS17", "--enc_width=4"),
    ("--mode=train", "--preset=best", "--dataset=Pascal3D", "--enc_width=8", "--latent_dim=64"),
    ("--mode=train", "--dataset=NIPS17", "--enc_width=4", "--confusion=ce"), ("--mode=trainCVPR19", "--enc_width=4"),
    ("--mode=train", "--dataset=Pascal3D", "--enc_width=8", "--latent_dim=64")], ids=str)
def test_nothing_goes_between_device_and_host(arguments, monkeypatch):
    trainer, inputs = on_meta(monkeypatch, arguments)
    for encoders_turn in (False, True):
        with Watch() as watch:
            values, norms = trainer._turn(encoders_turn, *inputs)
        assert not watch.found - {"aten.zeros.default"} and watch.seen > 100  # zeros made on the CPU and not copied
        assert all(v.device == META and v.dim() == 0 for v in (*values.values(), *norms.values()))
        assert set(norms) == {"E", "G"} | ({"D"} if trainer.options.D_always or not encoders_turn else set())


def test_copies_between_device_and_host_are_found():
    with Watch() as watch:
        torch.zeros(2, device=META) + torch.tensor(1.0)
        torch.bincount(torch.arange(3))
    assert {"aten.bincount.default", "aten.add.Tensor"} <= watch.found
