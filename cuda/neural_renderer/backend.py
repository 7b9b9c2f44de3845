"""Choose between the compiled kernels and the NumPy reference."""
import os
import warnings

try:
    from . import _kernels  # type: ignore[attr-defined]
    _import_error = None
except ImportError as error:
    _kernels, _import_error = None, error

_choice = None


def default(package, kernels, why, stacklevel=3):
    """The backend of `package` when the program has not chosen one: the value of NR_BACKEND if it is set, else
    'compiled' if the compiled module could be imported, else 'reference', with a warning.

    `kernels` is the compiled module, or None if its import failed with the error `why`."""
    name = os.environ.get("NR_BACKEND") or None
    if name not in ("compiled", "reference", None):
        raise ValueError(f"NR_BACKEND must be 'compiled' or 'reference', got {name!r}")
    if name == "compiled" and kernels is None:
        raise ImportError(f"the compiled kernels of {package} cannot be loaded: {why}")
    if name is None and kernels is None:
        warnings.warn(
            f"the compiled kernels of {package} cannot be loaded ({why}); the NumPy reference is used instead. It is "
            "correct but hundreds of times slower. Install a C++ compiler and run: pip install ./cuda", RuntimeWarning,
            stacklevel=stacklevel)
    return name or ("reference" if kernels is None else "compiled")


def get_backend() -> str:
    """Name of the kernels in use: 'compiled' or 'reference'.

    `set_backend` comes first, then the environment variable NR_BACKEND. If neither is set, the name is
    'compiled' if the compiled module can be imported, else 'reference', with one warning.
    """
    global _choice
    if _choice is None:
        _choice = default("neural_renderer", _kernels, _import_error)
    return _choice


def set_backend(name: str | None) -> None:
    """Use the kernels `name`: 'compiled' or 'reference'. None makes `get_backend` choose again."""
    global _choice
    if name not in ("compiled", "reference", None):
        raise ValueError(f"backend must be 'compiled' or 'reference', got {name!r}")
    if name == "compiled" and _kernels is None:
        raise ImportError(f"the compiled kernels of neural_renderer cannot be loaded: {_import_error}")
    _choice = name
