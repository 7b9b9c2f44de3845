"""`python -m neural_renderer` prints which kernels were built and tests them on each device of this machine."""
import sys

import torch

from . import Renderer, __version__, backend


def main():
    print(f"neural_renderer {__version__} in {__file__.rsplit('/', 1)[0]}; Python {sys.version.split()[0]}, "
          f"torch {torch.__version__}")
    kernels = backend._kernels
    if kernels is None:
        print(f"compiled kernels: none ({backend._import_error}); the NumPy reference is used instead")
    else:
        archs = kernels.cuda_architectures
        print("compiled kernels: CPU" + (f" and CUDA for compute capability {archs.replace(';', ', ')}" if archs else
                                         "; built without nvcc, so tensors on a GPU are drawn on the CPU"))
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    print("GPUs that torch sees: " + (", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in gpus) or "none"))
    return max(try_out(device) for device in ["cpu", *(f"cuda:{i}" for i in gpus)])


def try_out(device):
    """Draw a triangle and compare its gradient with known values (a test of Kato et al.'s); 0 if they agree."""
    vertices = torch.tensor([[[0.8, 0.8, 1.0], [0.0, -0.5, 1.0], [0.2, -0.4, 1.0]]], device=device, requires_grad=True)
    faces = torch.tensor([[[0, 1, 2]]], device=device)
    renderer = Renderer(image_size=64, anti_aliasing=False, camera_mode="look_at", perspective=False)
    try:
        (renderer(vertices, faces, mode="silhouettes")[0, 25, 35] - 1).abs().backward()
    except RuntimeError as error:
        print(f"{device}: fails: {str(error).splitlines()[0]}")
        return 1
    known = torch.tensor([[1.6725, -0.2602, 0.0], [1.4199, -1.6428, 0.0], [0.0, 0.0, 0.0]])
    right = torch.allclose(vertices.grad[0].cpu(), known, atol=2e-3)
    print(f"{device}: {'works' if right else 'gives a wrong gradient'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
