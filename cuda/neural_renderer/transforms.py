"""The operators under torch.func: vmap is folded into the batch; second and forward-mode derivatives are refused."""
import torch
from torch.autograd import forward_ad


def differentiable(operator, backward, setup_context=None, vmap=None):
    """Register the derivative of an operator and its rule for vmap (default: `folded`).

    Returns a function to call instead of the operator. torch.func's transforms do not see derivatives of operators,
    so inside of them this function calls an autograd.Function around the operator; elsewhere the operator itself.
    """
    def call(*args):
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return Transformed.apply(*args)
        return operator(*args)

    rule = (vmap or folded)(call)

    class Transformed(torch.autograd.Function):
        forward = staticmethod(call)

    Transformed.jvp = staticmethod(_forward_mode_is_not_there)
    Transformed.setup_context = staticmethod(setup_context or (lambda ctx, inputs, output: None))
    Transformed.backward, Transformed.vmap = staticmethod(backward), staticmethod(rule)
    operator.register_autograd(backward, setup_context=setup_context)
    operator.register_vmap(rule)
    return call


def folded(call):
    """A rule for vmap that turns N calls with B meshes into one call with N * B meshes."""
    def rule(info, in_dims, *args):
        N = info.batch_size

        def fold(value, dim):
            if not isinstance(value, torch.Tensor):
                return value
            value = value.expand(N, *value.shape) if dim is None else value.movedim(dim, 0)
            return value if value.dim() == 1 else value.flatten(0, 1)

        batch = next(a.shape[0 if d is None else int(d == 0)] for a, d in zip(args, in_dims)
                     if isinstance(a, torch.Tensor))
        results = call(*(fold(value, dim) for value, dim in zip(args, in_dims)))
        absent = [result.shape == (0,) for result in results]  # an image or a gradient not asked for
        return (tuple(r if none else r.unflatten(0, (N, batch)) for r, none in zip(results, absent)),
                tuple(None if none else 0 for none in absent))
    return rule


def forward_mode_refused(name, *tensors):
    """Raise RuntimeError if an input has a tangent (jvp, jacfwd, forward_ad): the operator would lose it silently."""
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            _forward_mode_is_not_there(name=name)


def _forward_mode_is_not_there(*_, name="rasterize"):
    """Also the forward-mode derivative of a gradient, which torch.func.hessian asks for."""
    raise RuntimeError(f"neural_renderer.{name} has no forward-mode derivative (jvp, jacfwd, hessian, forward_ad); use "
                       "reverse mode: backward(), torch.autograd.grad, torch.func.grad, vjp or jacrev")


def second_derivatives_refused(ctx, *gradients):
    """The derivative of the operators that compute gradients: it raises RuntimeError."""
    raise RuntimeError("neural_renderer has first derivatives only: the gradient of a rendering cannot be "
                       "differentiated again (create_graph=True, hessian). Detach the rendering, or take no second "
                       "derivative of it")
