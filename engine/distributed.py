"""One run in several processes: `torchrun --nproc_per_node=N 3D-GAN.py --mode=train ...`, a device each.

Each process takes its part of each batch and of each split that is evaluated, in the order of a single process.
Gradients and losses are averaged over the processes, so N processes take the same steps as one. Process 0, the main
process, prints and writes. In a run of one process, every function here is the identity.
"""
import contextlib
import datetime
import os
import sys

import torch
import torch.distributed as dist

from errors import DeviceError, InputError

PATIENCE = datetime.timedelta(hours=2)  # the main process may unpack a dataset; a dead process is noticed at once
# Errors of a device or of the communication between devices; torch before 2.8 has no AcceleratorError.
FAILURES = dist.DistError, getattr(torch, "AcceleratorError", dist.DistError)
_store = None


def size():
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def main():
    """Whether this is the main process, which prints and writes."""
    return rank() == 0


@contextlib.contextmanager
def joined(mode, several):
    """A context that joins the processes of torchrun: gloo for CPU tensors, NCCL for GPUs. Only the main process
    prints.

    several : modes that may run in several processes; other modes raise InputError.
    """
    global _store
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    if mode not in several:
        raise InputError(f"--mode={mode} runs in one process: start it without torchrun; {', '.join(several)} run "
                         "in several")
    try:
        _store, number, count = next(dist.rendezvous("env://"))
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", store=_store, rank=number,
                                world_size=count, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise InputError("cannot connect the processes; torchrun sets WORLD_SIZE, RANK and MASTER_ADDR for "
                         f"this: {str(error).splitlines()[0]}") from None
    if number:
        sys.stdout = open(os.devnull, "w")
    yield
    wait()  # torchrun would take it for a failure if a process left while the main process still writes
    dist.destroy_process_group()


def leave(code):
    """End the program. With several processes, exit without the interpreter's clean-up: torch's threads sometimes abort
    it (torch 2.13, gloo: "terminate called without an active exception"), and NCCL's threads may wait for a dead
    process."""
    if _store is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def first_to_tell():
    """Whether this process is the first to print why all of them end."""
    try:
        return _store is None or _store.add("told", 1) == 1
    except RuntimeError:  # the store died with the process that hosted it
        return True


@contextlib.contextmanager
def _together():
    """A context in which a process waits for the others; raises DeviceError if one of them has died."""
    try:
        yield
    except (*FAILURES, torch.OutOfMemoryError):  # this process's own device failed
        raise
    except RuntimeError:  # gloo reports a closed socket
        raise DeviceError("another process of this run has ended, so this one ends too; the checkpoints are "
                          "intact: continue with --resume") from None


def wait():
    """Wait for all processes."""
    highest(0)


@contextlib.contextmanager
def main_first():
    """A context that the main process runs through first, so that the others find the files it makes."""
    if not main():
        wait()
    yield
    if main():
        wait()


def highest(number):
    """The maximum of an int over the processes."""
    if size() == 1:
        return number
    numbers = torch.tensor(number)
    with _together():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def part(count):
    """The slice of this process, of `count` items; `count` must be a multiple of `size()`."""
    mine = count // size()
    return slice(rank() * mine, (rank() + 1) * mine)


def gathered(tensor):
    """Concatenate the parts (B, ...) of all processes, with gradient. All processes must call it together."""
    return tensor if size() == 1 else _Gathered.apply(tensor)


class _Gathered(torch.autograd.Function):
    """The gradient of a part is the sum over all processes."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.count = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(size())]
        with _together():
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        with _together():
            dist.all_reduce(gradient)
        return gradient[rank() * ctx.count:(rank() + 1) * ctx.count]


def average(modules, values):
    """Average the gradients of modules over the processes, in place; returns the {name: scalar tensor} averaged
    likewise. A missing gradient counts as zero."""
    if size() == 1:
        return values
    parameters = [p for module in modules for p in module.parameters()]
    together = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters),
                          *(value.detach().reshape(1) for value in values.values())])
    with _together():
        dist.all_reduce(together)
    pieces = (together / size()).split([p.numel() for p in parameters] + [1] * len(values))
    for parameter, piece in zip(parameters, pieces):
        # The fused optimiser requires the memory format of the parameter.
        parameter.grad = torch.empty_like(parameter).copy_(piece.view_as(parameter))
    # Clone: a view would keep all gradients of the step alive until the loss is read.
    return {name: piece[0].clone() for name, piece in zip(values, pieces[len(parameters):])}


def average_statistics(modules):
    """Average the running statistics of batch normalisation, which differ between processes on CPUs. Call it before
    they are used or saved."""
    if size() > 1:
        for module in modules:
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    with _together():
                        dist.all_reduce(buffer)
                    buffer.div_(size())


def same_as_main(modules):
    """Copy the parameters and buffers of the main process to all others."""
    if size() > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().clone(memory_format=torch.contiguous_format)
                copied_from_main(whole)
                tensor.detach().copy_(whole)


def copied_from_main(tensor):
    """Copy a contiguous tensor of the main process to all others, in place."""
    if size() > 1:
        with _together():
            dist.broadcast(tensor, 0)


def filled_in(tensor):
    """Complete a tensor of which each process holds some elements and zeros elsewhere."""
    if size() > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor
