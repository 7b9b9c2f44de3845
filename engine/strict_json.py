"""JSON that every program can read: no NaN, no infinity, no numpy."""
import json
import math


def plain(value):
    """The same value of dicts, lists, strings and numbers; what is not finite becomes None."""
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
    """As json's; nesting too deep for it is a ValueError too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
