"""A step of training, shared by all methods: networks, optimisers, losses, gradients."""
import contextlib
import functools
import math
import operator

import torch

import losses
from engine import distributed
from engine.divergence import any_bad, clip, gradient_norms
from engine.graphs import Captured
from errors import Divergence, InputError
from inference import Model
from losses.colours import begin, paint
from methods import METHODS, AutoEncoder


def learning_rate(step, options, base):
    """The learning rate of iteration `step`, counted from 1. By default it is multiplied by decay_order after
    decay_batch iterations, and again after every decay_every more. With lr_schedule 'cosine' it falls along half a
    cosine from `base` to 0 after the last iteration (Loshchilov & Hutter 2017)."""
    done = step - 1
    if options.lr_schedule == "cosine":
        return base * (1 + math.cos(math.pi * done / options.n_iters)) / 2
    if done < options.decay_batch:
        return base
    return base * options.decay_order ** ((done - options.decay_batch) // options.decay_every + 1)


def use_graphs(options, device):
    """Whether steps are recorded as CUDA graphs."""
    if options.cuda_graph == "on" and (device.type != "cuda" or distributed.size() > 1):
        raise InputError(f"--cuda_graph=on needs one process on one GPU, but this run has {distributed.size()} on "
                         f"{device}; give auto or off")
    return options.cuda_graph != "off" and device.type == "cuda" and distributed.size() == 1


class Trainer:
    """Networks, optimisers and the training step. The only file it reads is the template mesh."""

    def __init__(self, options, device, data=None):
        """data : the training split. It is needed if the number of pose bins depends on the files, and by losses with
        `prepare`."""
        self.options, self.device = options, device
        self.model = Model(vars(options)).to(device)
        self.dataset = self.model.dataset
        silhouette_size = self.dataset.silhouette_size(options.img_size)
        self.renderer = self.dataset.renderer(silhouette_size)
        self.topology = losses.MeshTopology(self.model.faces, self.model.decoder.template).to(device)
        self.modules = self.model.modules()
        if self.model.texture is not None and data is not None:
            begin(self.model, options, data, print if distributed.main() else lambda line: None)
        chosen = METHODS[options.mode]
        num_poses = data.num_poses if data is not None else self.dataset.count_poses(vars(options))
        if options.lambda_adv > 0:
            chosen.check(options, self.dataset, num_poses)
            self.method = chosen(options, num_poses, silhouette_size)
        else:
            self.method = AutoEncoder(options, num_poses, silhouette_size)
        if self.method.discriminator is not None:
            self.modules["D"] = self.method.discriminator.to(device)
        weighted = [(loss, chosen.weight(loss, options)) for loss in losses.LOSSES]
        self.losses = [(loss, weight) for loss, weight in weighted if weight or loss.always]
        self.prepared = {loss.name: loss.prepare(options, data, device) for loss, _ in self.losses if loss.prepare}
        self.changing = {name: prepared for name, prepared in self.prepared.items() if hasattr(prepared, "refresh")}
        # {name of a loss or method: (function that returns other cameras, whether to draw their silhouettes)}
        self.views = {loss.name: (loss.views, loss.silhouettes) for loss, _ in self.losses if loss.views}
        if self.method.wants_other_views:
            self.views[self.method.title] = _other_views, True
        if options.pairs == 2:
            self.views[losses.PAIR] = _views_of_pairs, True
        # Weights of losses that begin later are tensors, so that a CUDA graph reads their current values.
        self.later = {loss.name: torch.zeros((), device=device) for loss, _ in self.losses
                      if loss.begins and getattr(options, loss.begins) > 0}
        if distributed.size() > 1 and device.type == "cuda":  # on CPUs each process normalises only its part
            self.modules.update({name: torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
                                 for name, module in self.modules.items()})
        rates = {**dict.fromkeys(self.modules, options.lr), "D": options.lr_D or options.lr}
        on_gpu = device.type == "cuda"  # there the rates are tensors, so that CUDA graphs read their current values
        self.optimizers = {name: torch.optim.Adam(
            module.parameters(), lr=torch.tensor(rates[name], device=device) if on_gpu else rates[name],
            fused=True, capturable=on_gpu) for name, module in self.modules.items()}
        self.rates = rates
        # {whether it is the encoder's turn: the function of the turn}
        self._turns = {turn: functools.partial(self._turn, turn) for turn in (False, True)}
        if use_graphs(options, device):
            self._turns = {turn: Captured(function) for turn, function in self._turns.items()}

    def step(self, step, batch):
        """One iteration on a `Batch`; returns {loss name: scalar tensor} and {network: norm of its gradient}.

        If one of these is not finite, networks and optimisers do not change.
        """
        for name, optimizer in self.optimizers.items():
            group, rate = optimizer.param_groups[0], learning_rate(step, self.options, self.rates[name])
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], torch.Tensor) else rate
        for loss, weight in self.losses:
            if loss.name in self.later:
                self.later[loss.name].fill_(weight if step >= getattr(self.options, loss.begins) else 0.0)
        for prepared in self.changing.values():
            prepared.refresh(self.model, step)
        return self._turns[self.encoders_turn(step)](*self.inputs(batch))

    def encoders_turn(self, step):
        """Whether an iteration is the encoder's turn. The other iterations are the discriminator's, if there is one."""
        return "D" in self.modules and step % self.options.G_every == 0

    def inputs(self, batch):
        """The tensors of a turn, on the device: those of the batch, then cameras and poses of the other views."""
        batch = batch.to(self.device)
        others = []
        if self.views:
            whole = [distributed.gathered(t) for t in (batch.cameras, batch.poses)]  # all draw alike
            part = distributed.part(len(whole[0]))
            for views, _ in self.views.values():
                others += [drawn[part] for drawn in views(self.dataset, *whole)]
        return batch.images, batch.silhouettes, batch.cameras, batch.poses, batch.objects, batch.numbers, *others

    def _turn(self, encoders_turn, *inputs):
        """The work of a step. It copies nothing between device and host, so that a CUDA graph can record it."""
        # Keep the statistics of batch normalisation: the forward pass changes them before the losses are known.
        statistics = [(b, b.clone()) for m in self.modules.values() for b in m.buffers()]
        values, learning = self.learn(self.seen(inputs, *self.predicted(inputs[0])), encoders_turn)
        values = distributed.average(learning.values(), values)
        norms = gradient_norms(learning)
        bad = any_bad(values, norms)
        if self.options.clip_norm:
            clip(learning, norms, self.options.clip_norm)
        for name in learning:
            self.optimizers[name].found_inf = bad  # if 1, the fused optimiser changes nothing; the host need not wait
            self.optimizers[name].step()
        for statistic, before in statistics:
            statistic.copy_(torch.where(bad > 0, before, statistic))
        return {k: v.detach() for k, v in values.items()}, norms

    def learn(self, step, encoders_turn):
        """Compute the gradients of a `losses.Step`. Returns {loss name: value} and the networks {name: network} that
        have gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        values, total = self.total(step)
        learning = {name: module for name, module in self.modules.items() if name != "D"}
        if encoders_turn:
            with _frozen(self.modules["D"]):
                for name, value in self.method.encoder_losses(step).items():
                    values[name] = value
                    total = total + self.options.lambda_adv * value
                self._backward(total)
        else:
            self._backward(total)
        if "D" in self.modules and (self.options.D_always or not encoders_turn):
            own = self.method.discriminator_losses(step)
            self._backward(functools.reduce(operator.add, own.values()))
            values.update(own)
            learning["D"] = self.modules["D"]
        return values, learning

    def predicted(self, images):
        """Codes (B, latent_dim) and vertices (B, V, 3) of images, with --texture also colours (B, P, 3); with --amp the
        networks compute in bfloat16."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp, cache_enabled=False):
            codes, colour_codes = self.model.read(images)
            predicted = [codes, self.model.decoder(codes)]
            if colour_codes is not None:
                predicted.append(self.model.texture(colour_codes))
        return tuple(tensor.to(images.dtype) for tensor in predicted)

    def seen(self, inputs, codes, vertices, colours=None):
        """The `losses.Step` of the inputs; one call draws all its silhouettes."""
        given, others = inputs[:6], inputs[6:]
        views = {name: losses.View(*others[2 * i:2 * i + 2]) for i, name in enumerate(self.views)}
        step = losses.Step(*given, codes, vertices, self.model.faces, self.topology, self.dataset, self.renderer,
                           self.prepared, views)
        drawn = [views[name] for name, (_, silhouettes) in self.views.items() if silhouettes]
        step.rendered, *rendered = step.draw(step.cameras, *(view.cameras for view in drawn))
        for view, silhouettes in zip(drawn, rendered):
            view.rendered = silhouettes
        if colours is not None:
            self._paint(step, colours)
        return step

    def _paint(self, step, colours):
        """Draw the shapes of a step in their colours (B, P, 3), in a pass of their own. One pass for colours and
        silhouettes would also compute the gradient of the colours by the vertices, which is needed only with
        --texture_to_shape and takes longer than the second pass."""
        surface = step.surface = self.model.texture
        step.colours = colours
        vertices = step.vertices if self.options.texture_to_shape else step.vertices.detach()
        step.painted = paint(self.dataset, vertices, step.faces, surface.cubes(colours), step.cameras,
                             step.silhouettes.shape[-1], surface.light)

    def total(self, step):
        """({name: value}, weighted sum) of the rows of LOSSES that this run uses."""
        values = {loss.name: loss.function(step) for loss, _ in self.losses}
        terms = [values[loss.name] if loss.option is None else
                 self.later.get(loss.name, weight) * values[loss.name]
                 for loss, weight in self.losses]
        return values, functools.reduce(operator.add, terms)

    def _backward(self, loss):
        """Backward pass, skipped for a loss that is not finite. Only a single process on a CPU checks this: on a GPU
        the check would wait, and with several processes the others would wait for the gradients of this one."""
        if self.device.type != "cpu" or distributed.size() > 1 or loss.isfinite():
            loss.backward()

    def state(self):
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        for state in optimizers.values():  # store the rate as a number, whatever the device
            state["param_groups"] = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
        return {"models": {k: m.state_dict() for k, m in self.modules.items()}, "optimizers": optimizers,
                "prepared": {name: prepared.state() for name, prepared in self.changing.items()}}

    def load(self, state):
        for name, prepared in self.changing.items():
            if name in state.get("prepared", {}):  # older checkpoints have none
                prepared.load(state["prepared"][name])
        for name, module in self.modules.items():
            module.load_state_dict(state["models"][name])
            optimizer = self.optimizers[name]
            own = {key: optimizer.param_groups[0][key] for key in ("lr", "capturable")}  # these depend on the device
            optimizer.load_state_dict(state["optimizers"][name])
            optimizer.param_groups[0].update(own)
            for parameter, kept in optimizer.state.items():
                for key, value in kept.items():
                    if value.shape == parameter.shape:  # the fused optimiser needs the parameter's memory layout
                        kept[key] = torch.empty_like(parameter).copy_(value)

    def check_finite(self):
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                if not torch.isfinite(value).all():
                    raise Divergence(f"weight {key} of {name} is not finite")


def _other_views(dataset, cameras, poses):
    return dataset.other_views(cameras, poses)


def _views_of_pairs(dataset, cameras, poses):
    return losses.exchanged(cameras), losses.exchanged(poses)


@contextlib.contextmanager
def _frozen(module):
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
