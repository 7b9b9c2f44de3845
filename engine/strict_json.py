"""JSON that every program can read: no NaN, no infinity, no numpy."""
import json
import math


def plain(value):
    """Convert to dicts, lists, strings and numbers; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):  # numpy's and torch's scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value, indent=None):
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def loads(text):
    """json.loads, which raises ValueError for text that is nested too deeply, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
