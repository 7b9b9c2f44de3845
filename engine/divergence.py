"""Finds and counts losses and gradients that are not finite, and shortens gradients that are too long."""
import math

import torch

from errors import Divergence

SKIPS_IN_A_ROW = 100  # if more steps in a row are skipped, stop the run
NETWORKS = {"E": "encoder", "G": "decoder", "T": "texture decoder", "D": "discriminator"}


def gradient_norms(modules):
    """{name: norm, scalar tensor} of the gradients of each module. A norm that overflows its type counts as not finite,
    since the squares that Adam keeps would overflow too."""
    return {name: _norm([p.grad for p in module.parameters() if p.grad is not None])
            for name, module in modules.items()}


def _norm(gradients):
    if not gradients or gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    flat = [_in_memory_order(g) for g in gradients]
    return torch.stack([torch.dot(g, g) for g in flat]).sum().sqrt()  # a third of the time of torch's norms


def _in_memory_order(tensor):
    """Flattened, without a copy if the tensor is dense."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return (tensor.permute(0, 2, 3, 1) if last else tensor).reshape(-1)


def clip(modules, norms, longest):
    """Scale the gradients of each module down to a norm of `longest`, if theirs in `norms` is longer (Pascanu et al.
    2013). The host does not wait for the device."""
    for name, module in modules.items():
        scale = (longest / norms[name].clamp_min(1e-12)).clamp_max(1)
        torch._foreach_mul_([p.grad for p in module.parameters() if p.grad is not None], scale)


def any_bad(losses, norms):
    """1.0 if a value is not finite, else 0.0, as a scalar tensor: the host does not wait for the device."""
    together = torch.stack([v.detach().float() for v in (*losses.values(), *norms.values())])
    return together.isfinite().all().logical_not().float()


class Watch:
    """Reads losses and gradient norms of several steps at once, so that the host waits for a GPU only once.

    The trainer itself applies no update in a step that is not finite, so it is safe to notice that later.

    Parameters
    ----------
    on_nan : 'stop' raises `Divergence` with the step, the part and the values; 'skip' counts.
    skipped : steps that the resumed run has skipped so far.
    losses : losses of the resumed run that are not in a record yet.

    Attributes
    ----------
    losses : the newest value of each loss, for the next record. A step has only some of them: in the encoder's turn
        there is no discriminator loss.
    """

    def __init__(self, on_nan, skipped=0, losses=()):
        self.on_nan, self.skipped, self.losses = on_nan, skipped, dict(losses)
        self.in_a_row, self.unread = 0, []

    def add(self, step, losses, norms):
        self.unread.append((step, losses, norms))

    def read(self):
        """Check all steps so far; returns the losses of the newest one as floats."""
        numbers = iter(torch.stack([v.detach().float() for _, *both in self.unread for values in both
                                    for v in values.values()]).tolist())
        for step, losses, norms in self.unread:
            losses = {name: next(numbers) for name in losses}
            self.losses |= losses
            self._look(step, losses, {name: next(numbers) for name in norms})
        self.unread.clear()
        return losses

    def _look(self, step, losses, norms):
        named = {**{f"{name} loss": value for name, value in losses.items()},
                 **{f"gradient of the {NETWORKS[name]}": value for name, value in norms.items()}}
        bad = [name for name, value in named.items() if not math.isfinite(value)]
        if not bad:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        what = f"the {bad[0]} is {named[bad[0]]} (" + \
            ", ".join(f"{name} {value:.4g}" for name, value in named.items()) + ")"
        if self.on_nan == "stop":
            raise Divergence(what, step)
        if self.in_a_row > SKIPS_IN_A_ROW:
            raise Divergence(f"{what}, as in the {SKIPS_IN_A_ROW} steps before", step)
