"""Devices that are missing, full or fail: one error message, and no checkpoint is lost."""
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from command import ROOT, SHORT, TINY, call, checkpoint, environment, script
from engine import devices
from errors import DeviceError, InputError

FULL = ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is "
        "free. Including non-PyTorch memory, this process has 77.00 GiB memory in use.")


def options(**changed):
    return SimpleNamespace(**{"mode": "train", "batch_size": 128, "data_on": "host", **changed})


@pytest.mark.parametrize("changed, advice", [
    ({}, "lower --batch_size, now 128, or --img_size or --enc_width"),
    ({"data_on": "auto"}, "lower --batch_size, now 128, or give --data_on=host"),
    ({"mode": "evaluation"}, "give --device=cpu")])
def test_a_full_gpu(changed, advice):
    with pytest.raises(InputError) as told, devices.failures_told(
            options(**changed), changed.get("mode") != "evaluation"):
        raise torch.OutOfMemoryError(FULL)
    assert str(told.value) == ("the program asked the GPU for 2.50 GiB, more than is free (1.20 GiB of 79.11 GiB): "
                               f"{advice}")


def test_who_asked_for_more_memory_than_there_is():
    from losses import gaussian_prior

    class Greedy:
        def square(self):
            return torch.empty(1 << 46)
    with pytest.raises(InputError) as told, devices.failures_told(options()):
        gaussian_prior(Greedy())
    assert str(told.value).startswith("gaussian_prior of losses/__init__.py asked this machine for 281474976710656 bytes, "
                                      "more than is free")


@pytest.mark.parametrize("error", [
    torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with ..."),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), torch.distributed.DistBackendError("NCCL error: 5")])
def test_a_device_that_disappears(error):
    with pytest.raises(DeviceError) as told, devices.failures_told(options()):
        raise error
    assert str(told.value) == (f"a device has failed: {str(error).splitlines()[0]}; the checkpoints are intact: "
                               "continue with --resume")


def test_errors_of_the_program_stay_errors():
    for error in (RuntimeError("shapes differ"), ValueError("CUDA error")):
        with pytest.raises(type(error), match=str(error)), devices.failures_told(options()):
            raise error


def test_a_run_whose_device_disappears_keeps_its_checkpoint(data, template, tmp_path, monkeypatch, capsys):
    from training import Trainer
    step = Trainer.step

    def lost(self, number, batch):
        if number == 5:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return step(self, number, batch)
    monkeypatch.setattr(Trainer, "step", lost)
    assert call("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--obj_dir", template,
                "--lambda_adv=0", *TINY, *SHORT) == 3
    assert capsys.readouterr().err == ("error: a device has failed: CUDA error: unspecified launch failure; the "
                                       "checkpoints are intact: continue with --resume\n")
    assert checkpoint(tmp_path / "run")["step"] == 3 and not (tmp_path / "run" / "run.lock").exists()


def test_options_that_need_a_gpu(data, refused, tmp_path, monkeypatch):
    train = "--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run"
    assert "--cuda_graph=on needs one process on one GPU" in refused(*train, *TINY, "--cuda_graph=on")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device=cuda: this torch sees" in refused(*train, "--device=cuda")
    assert "--device=cuda:3: this torch sees" in refused(*train, "--device_id=3")
    assert "--device=tpu is not one of auto, cpu, cuda, cuda:N" in refused(*train, "--device=tpu")


def test_training_takes_denormal_numbers_for_zero_on_every_thread_and_other_modes_do_not():
    """Denormal numbers come from Adam's averages and slow a CPU down. Measurements keep them."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.path.insert(0, {str(ROOT / 'tests')!r})
import conftest, torch
from command import script
from engine import devices
devices.resolve(script().parse(["--mode=" + sys.argv[1], "--device=cpu", "--threads=2"]), sys.argv[1] != "evaluation")
print(int((torch.full((1 << 20,), 1e-39) * 0.5).count_nonzero()))
"""
    left = [int(subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True,
                               env=environment()).stdout) for mode in ("train", "trainCVPR19", "evaluation")]
    assert left == [0, 0, 1 << 20]


@pytest.mark.parametrize("given, convolutions, products", [
    ((), False, False), (("--tf32",), True, True), (("--amp",), True, False)])
def test_amp_lets_convolutions_use_tf32(given, convolutions, products, monkeypatch):
    """With --amp VPL's discriminator, which is outside of autocast, took three times as long in plain float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    monkeypatch.setattr(devices, "named", lambda options: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    try:
        devices.resolve(script().parse(["--mode=trainCVPR19", *given]), False)
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (convolutions, products)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
