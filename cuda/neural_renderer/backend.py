"""Which kernels do the work: the compiled ones, or the NumPy reference."""
import os
import warnings

try:
    from . import _kernels
    _import_error = None
except ImportError as error:
    _kernels, _import_error = None, error

_choice = None


def default(package, kernels, why, stacklevel=3):
    """The kernels of a package where a program chooses none: what NR_BACKEND says, else 'compiled' where the compiled
    module could be loaded and 'reference', with a warning, where it could not (`kernels` None, `why` the error)."""
    name = os.environ.get("NR_BACKEND") or None
    if name not in ("compiled", "reference", None):
        raise ValueError(f"NR_BACKEND must be 'compiled' or 'reference', got {name!r}")
    if name == "compiled" and kernels is None:
        raise ImportError(f"the compiled kernels of {package} cannot be loaded: {why}")
    if name is None and kernels is None:
        warnings.warn(
            f"the compiled kernels of {package} cannot be loaded ({why}); the NumPy reference takes over, correct but "
            "hundreds of times slower. Install a C++ compiler and run: pip install ./cuda", RuntimeWarning,
            stacklevel=stacklevel)
    return name or ("reference" if kernels is None else "compiled")


def get_backend():
    """Name of the kernels in use: 'compiled' or 'reference'.

    Taken from `set_backend`, else from the environment variable NR_BACKEND, else 'compiled' where
    the compiled module can be loaded and 'reference', with one warning, where it cannot.
    """
    global _choice
    if _choice is None:
        _choice = default("neural_renderer", _kernels, _import_error)
    return _choice


def set_backend(name):
    """Choose the kernels: 'compiled' or 'reference' (None: choose anew at the next call)."""
    global _choice
    if name not in ("compiled", "reference", None):
        raise ValueError(f"backend must be 'compiled' or 'reference', got {name!r}")
    if name == "compiled" and _kernels is None:
        raise ImportError(f"the compiled kernels of neural_renderer cannot be loaded: {_import_error}")
    _choice = name
