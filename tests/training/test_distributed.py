"""Training in several processes, here two on the CPU, gives the steps, files and figures of one process."""
import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from command import (ROOT, SCRIPT, SHORT, TINY, call, checkpoint, differences, environment, listing, metrics,
                     wait_for_step)
from engine import distributed
from errors import DeviceError
from processes import CASES, steps

LOSSES = ("silhouette", "smoothness", "prior", "discriminator", "confusion", "view_prior")


def start(*arguments, program=SCRIPT, count=2):
    """Start the processes that torchrun would start; returns them in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    return [subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)], text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**environment(), "WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank),
             "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}) for rank in range(count)]


def ended(processes, seconds=120):
    """Wait for processes to end; returns [(exit code, stdout, stderr)]."""
    try:
        return [(p.wait(), out, err) for p in processes for out, err in [p.communicate(timeout=seconds)]]
    finally:
        for p in processes:
            p.kill()


def command(data, template, folder, *more):
    return ("--mode=train", "--data_dir", data, "--ckpt_dir", folder, "--obj_dir", template, *TINY, "--lambda_near=0.5",
            *more)


@pytest.fixture(scope="module")
def told(data, template, tmp_path_factory):
    """The result of processes.py in two processes."""
    result = tmp_path_factory.mktemp("processes") / "told.json"
    for code, out, err in ended(start(data, template, result, program=ROOT / "tests" / "programs" / "processes.py")):
        assert code == 0 and out == "" and err == "", err
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def alone(data, template):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield steps(data, template)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ["featGAN", "standardized", "colours"])
def test_the_steps_of_two_processes_are_those_of_one(case, told, alone):
    """Their losses and the norms of their gradients."""
    for step, (two, one) in enumerate(zip(told[case], alone[case], strict=True), 1):
        assert two == pytest.approx(one, abs=1e-7), step
    assert any("confusion" in losses for losses in told[case]) and len(told[case]) == CASES[case][0]


def test_the_other_views_of_vpl_are_those_that_one_process_draws(told, alone):
    assert told["VPL views"] == alone["VPL views"] and alone["VPL views"][0] != alone["VPL views"][1]
    # Only step 1: each process on the CPU has its own batch normalisation, which changes the weights from step 2 on.
    first, wanted = (dict(of["VPL"][0]) for of in (told, alone))
    for name in ("discriminator", "D"):
        del first[name], wanted[name]
    assert first == pytest.approx(wanted, rel=1e-9)
    assert told["mean of statistics"] == [1.5, 1.5]


def test_what_is_not_finite_in_one_process_changes_no_weight_in_any(told):
    assert told["bad step"] == [1, 1, True, True]


# ---- the command line -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two(data, template, tmp_path_factory):
    """The folder of a run started by torchrun, and its output."""
    folder = tmp_path_factory.mktemp("two") / "run"
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           SCRIPT, *command(data, template, folder, *SHORT)], text=True, timeout=300,
                          env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    yield folder, done.stdout
    shutil.rmtree(folder)


def test_torchrun_leaves_the_files_of_one_process(two, data, template, tmp_path):
    folder, out = two
    assert call(*command(data, template, tmp_path / "one", *SHORT)) == 0
    records, wanted = metrics(folder), metrics(tmp_path / "one")
    assert [sorted(r) for r in records] == [sorted(r) for r in wanted]
    assert {k: v for k, v in records[0].items() if k in LOSSES} == pytest.approx(
        {k: v for k, v in wanted[0].items() if k in LOSSES}, rel=1e-4)
    assert set(listing(folder)) == set(listing(tmp_path / "one")) and out.count("training in") == 1
    assert out.count("done: best") == 1


def test_evaluation_of_two_processes_is_that_of_one_to_the_last_digit(two, data, tmp_path):
    folder = shutil.copytree(two[0], tmp_path / "run")
    options = "--mode=evaluation", "--ckpt_dir", folder, "--device=cpu", "--threads=1"
    (code, out, err), (other, silent, _) = ended(start(*options))
    assert (code, other, silent) == (0, 0, ""), err
    path = folder / "evaluation_test_last.json"
    figures = json.loads(path.read_text())
    assert call(*options) == 0
    assert differences(figures, json.loads(path.read_text())) == [] and "agreement" in out


def test_resumed_by_one_process_and_by_two(two, data, template, tmp_path):
    """One process resumes a run of two processes, and two resume a run of one. A signal to one process ends both."""
    folder = shutil.copytree(two[0], tmp_path / "run")
    longer = "--n_iters=9", "--ckpt_step=3", "--sample_step=3", "--log_step=1", "--resume"
    assert call(*command(data, template, folder, *longer)) == 0
    endless = "--n_iters=100000", "--ckpt_step=90000", "--sample_step=90000", "--log_step=1", "--resume"
    running = start(*command(data, template, folder, *endless))
    wait_for_step(running[0], folder, 11)
    running[1].send_signal(signal.SIGTERM)
    (code, out, err), (other, silent, more) = ended(running)
    assert (code, other, silent, err, more) == (75, 75, "", "", "")
    step = checkpoint(folder)["step"]
    assert f"SIGTERM: stopped and saved after step {step}" in out and not (folder / "run.lock").exists()
    assert [r["step"] for r in metrics(folder)] == list(range(1, step + 1))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others_with_a_sentence(victim, two, data, template, tmp_path):
    folder = shutil.copytree(two[0], tmp_path / "run")
    running = start(*command(data, template, folder, "--n_iters=100000", "--ckpt_step=90000", "--sample_step=90000",
                             "--log_step=1", "--resume"))
    wait_for_step(running[0], folder, 8)
    running[victim].kill()
    begun = time.monotonic()
    code, _, err = ended(running, 30)[1 - victim]
    assert time.monotonic() - begun < 20
    sentence = ("error: another process of this run has ended, so this one ends too; the checkpoints are intact: "
                "continue with --resume\n")
    # torchrun keeps the store in its own process. Here process 0 has it, so torch prints errors when process 0 dies.
    assert code == 3 and (err.endswith(sentence) if victim == 0 else err == sentence)
    assert checkpoint(folder)["step"] == 6 and (folder / "run.lock").exists() == (victim == 0)


# ---- what is refused ------------------------------------------------------------------------------------

def test_a_batch_that_cannot_be_shared_out(data, template, tmp_path):
    """Both processes see the error, a batch that cannot be divided equally, but only one prints it."""
    before = listing(tmp_path)
    both = ended(start(*command(data, template, tmp_path / "run", *SHORT, "--batch_size=5")))
    assert [code for code, _, _ in both] == [2, 2] and listing(tmp_path) == before
    sentence = ("error: --batch_size=5 cannot be divided equally among 2 processes: give a multiple of their "
                "number\n")
    # The message is printed once as long as the store exists: with torchrun to the end, here as long as process 0 runs.
    assert sentence in [err for _, _, err in both] and all(not err or err.endswith(sentence) for _, _, err in both)


def test_modes_of_one_process(refused, monkeypatch, tmp_path):
    """A mode for one process is refused before the processes wait for each other; so is an incomplete environment."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert "--mode=MMD runs in one process: start it without torchrun" in refused("--mode=MMD", "--runs", tmp_path)
    assert "RANK" in refused("--mode=evaluation", "--ckpt_dir", tmp_path)


def test_a_loss_keeps_no_gradients(monkeypatch):
    """On GPUs, losses are kept for many steps until the next record."""
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))
    layer = torch.nn.Linear(100, 100)
    layer(torch.rand(100)).sum().backward()
    before = layer.weight.grad.clone()
    loss = distributed.average([layer], {"loss": torch.tensor(3.0)})["loss"]
    assert float(loss) == 3 and loss.untyped_storage().nbytes() == 4 and torch.allclose(layer.weight.grad, before)


@pytest.mark.parametrize("error, told", [
    (torch.distributed.DistBackendError("NCCL error: no room"), torch.distributed.DistBackendError),
    (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    (RuntimeError("Connection closed by peer"), DeviceError)])
def test_only_a_lost_peer_is_told_as_one(error, told, monkeypatch):
    def fails(*_, **__):
        raise error
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", fails)
    with pytest.raises(told):
        distributed.highest(1)
