"""One run in several processes: `torchrun --nproc_per_node=N 3D-GAN.py --mode=train ...`, a device each.

Every process takes its part of each batch and of each split that is measured, in the same order as one process
would; gradients and losses are averaged over all of them, so that N processes take the very steps of one. Process
0, the main one, tells and writes. In a process of its own, all of this gives back what it got.
"""
import contextlib
import datetime
import os
import sys

import torch
import torch.distributed as dist

from errors import DeviceError, InputError

PATIENCE = datetime.timedelta(hours=2)  # while the main process unpacks a dataset; one that ends is seen at once
# What a device, or the way to those of the others, fails with; torch before 2.8 has no AcceleratorError.
FAILURES = dist.DistError, getattr(torch, "AcceleratorError", dist.DistError)
_store = None


def size():
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def main():
    """Whether this is the process that tells and writes."""
    return rank() == 0


@contextlib.contextmanager
def joined(mode, several):
    """Inside, the processes that torchrun has started are one group: gloo for what is on the CPU, NCCL for GPUs.
    All but the main one are silent.

    several : the modes that run in several processes; others are refused.
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
        raise InputError("the processes that WORLD_SIZE, RANK and MASTER_ADDR tell of, which torchrun sets, "
                         f"cannot join: {str(error).splitlines()[0]}") from None
    if number:
        sys.stdout = open(os.devnull, "w")
    yield
    wait()  # nobody leaves, which torchrun would take for a failure, while the main process still writes
    dist.destroy_process_group()


def leave(code):
    """End the program. One of several processes ends at once, when all is said and written: threads of torch's own
    sometimes abort the interpreter's orderly end (torch 2.13, gloo: "terminate called without an active exception"),
    and those of NCCL may wait for a process that is gone."""
    if _store is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def first_to_tell():
    """Whether no other process has said yet why all of them end."""
    try:
        return _store is None or _store.add("told", 1) == 1
    except RuntimeError:  # it has gone with the process that kept it
        return True


@contextlib.contextmanager
def _together():
    """Where a process waits for the others: if one of them has ended, it will not come."""
    try:
        yield
    except (*FAILURES, torch.OutOfMemoryError):  # of this one's own device
        raise
    except RuntimeError:  # in words of sockets
        raise DeviceError("another process of this run has ended, so this one does too; what was saved before "
                          "stays: go on with --resume") from None


def wait():
    """Until all processes are here."""
    highest(0)


@contextlib.contextmanager
def main_first():
    """The main process goes through alone; the others then find the files that it has made."""
    if not main():
        wait()
    yield
    if main():
        wait()


def highest(number):
    """The highest of the numbers (int) that the processes have."""
    if size() == 1:
        return number
    numbers = torch.tensor(number)
    with _together():
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def part(count):
    """The slice of `count` things, a multiple of `size()`, that is this process's."""
    mine = count // size()
    return slice(rank() * mine, (rank() + 1) * mine)


def gathered(tensor):
    """The parts (B, ...) of all processes, one after the other, with gradient; all of them call this together."""
    return tensor if size() == 1 else _Gathered.apply(tensor)


class _Gathered(torch.autograd.Function):
    """What every process makes of this one's part adds up in its gradient."""

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
    """Gradients of modules become their mean over the processes; returns {name: scalar tensor} averaged likewise.
    A process that lacks a gradient counts as zero."""
    if size() == 1:
        return values
    parameters = [p for module in modules for p in module.parameters()]
    together = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters),
                          *(value.detach().reshape(1) for value in values.values())])
    with _together():
        dist.all_reduce(together)
    pieces = (together / size()).split([p.numel() for p in parameters] + [1] * len(values))
    for parameter, piece in zip(parameters, pieces):
        # In the parameter's own memory format, which the fused optimiser takes for granted.
        parameter.grad = torch.empty_like(parameter).copy_(piece.view_as(parameter))
    # Copies: a view would keep all gradients of the step until the loss is read.
    return {name: piece[0].clone() for name, piece in zip(values, pieces[len(parameters):])}


def average_statistics(modules):
    """Running means and variances of batch normalisation, of which each process on CPUs has its own, become their
    means: before they are used or saved."""
    if size() > 1:
        for module in modules:
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    with _together():
                        dist.all_reduce(buffer)
                    buffer.div_(size())


def same_as_main(modules):
    """Parameters and buffers of modules become those of the main process."""
    if size() > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().clone(memory_format=torch.contiguous_format)
                with _together():
                    dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)


def filled_in(tensor):
    """A tensor of which each process has some elements, the others zero, complete in all of them."""
    if size() > 1:
        with _together():
            dist.all_reduce(tensor)
    return tensor
