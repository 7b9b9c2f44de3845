"""Read object arrays of images from npy files without running code from the file.

Such an array is a pickle, and a pickle is a program that may call any function. This module does not run
the pickle. It interprets the opcodes that `pickletools` of the standard library lists, and the only thing
it makes from them is uint8 arrays. It imports nothing and calls nothing that the file names. It returns
arrays one by one, so that a file of any size needs only the memory of its largest image.
"""
import pickletools

import numpy as np

MAX_BYTES = 1 << 28   # most bytes of an image
KEEP_BYTES = 256      # longer strings may be used only once and are not kept

# The names in numpy's pickles: the function that makes arrays, their types, and the decoder of Python 2's strings.
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_KNOWN = {**{(module, "_reconstruct"): "reconstruct" for module in _MODULES},
          ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): "dtype", ("_codecs", "encode"): "encode"}
_PLAIN = {"NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING",
          "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE",
          "SHORT_BINUNICODE", "BINUNICODE8"}
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class Refused(ValueError):
    """The pickle contains something other than uint8 arrays."""


class _Global:
    def __init__(self, what):
        self.what = what


class _Dtype:
    def __init__(self, kind):
        self.kind = kind


class _Array:
    """`value` is None before BUILD; then it is the list of elements, or the result of `keep` for the array."""

    value = None


class _Mark:
    pass


class _Forgotten:
    pass


def read_objects(stream, keep):
    """Read the elements of the object array whose pickle is in a stream, in order.

    keep : called with each uint8 array when it is complete; its results become the elements. An element that
        is not a uint8 array becomes None.

    Raises
    ------
    Refused if the pickle names anything other than numpy's arrays; ValueError if it is damaged.
    """
    stack, memo = [], {}
    try:
        for opcode, argument, _ in pickletools.genops(_Bounded(stream)):
            if opcode.name == "STOP":
                break
            _follow(opcode.name, argument, stack, memo, keep)
        else:
            raise ValueError("the pickle has no end")
        result, = stack
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the pickle is damaged: {type(error).__name__}: {error}") from None
    if not isinstance(result, _Array) or not isinstance(result.value, _Elements):
        raise Refused("holds something other than an array of arrays")
    return [element.value if isinstance(element, _Array) and not isinstance(element.value, _Elements) else None
            for element in result.value]


class _Elements(list):
    """The elements of an array of objects."""


class _Bounded:
    """A stream that raises Refused for a read of more than MAX_BYTES."""

    def __init__(self, stream):
        self.stream, self.readline = stream, lambda: stream.readline(1 << 16)

    def read(self, count):
        if not 0 <= count <= MAX_BYTES:
            raise Refused(f"holds a block of {count} bytes; an image has at most {MAX_BYTES}")
        return self.stream.read(count)


def _follow(name, argument, stack, memo, keep):
    if name in ("PROTO", "FRAME"):
        return
    if name in _PLAIN:
        stack.append(_CONSTANT.get(name, argument))
    elif name == "MARK":
        stack.append(_Mark)
    elif name == "EMPTY_TUPLE":
        stack.append(())
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])] if len(stack) >= count else _short()
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "LIST":
        stack.append(_since_mark(stack))
    elif name in ("APPEND", "APPENDS"):
        items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
        if type(stack[-1]) is not list:
            raise ValueError("the pickle is damaged: it appends to something that is not a list")
        stack[-1].extend(items)
    elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = _Forgotten if _is_long(stack[-1]) else stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        if memo[argument] is _Forgotten:
            raise Refused("uses one block of bytes twice, which numpy's arrays do not")
        stack.append(memo[argument])
    elif name == "GLOBAL":
        stack.append(_global(*argument.split(" ", 1)))
    elif name == "STACK_GLOBAL":
        module, attribute = stack.pop(-2), stack.pop()
        stack.append(_global(module, attribute))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_make(function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        _build(stack[-1], state, keep)
    else:
        raise Refused(f"holds {name}, which arrays of numbers do not need")


def _is_long(value):
    """Whether a value is a large block of bytes, or a tuple with one: the data of an array."""
    if isinstance(value, tuple):
        return any(isinstance(part, (bytes, str)) and len(part) > KEEP_BYTES for part in value)
    return isinstance(value, (bytes, str)) and len(value) > KEEP_BYTES


def _short():
    raise ValueError("the pickle is damaged: it takes more values than there are")


def _since_mark(stack):
    at = len(stack) - 1 - stack[::-1].index(_Mark)
    items = stack[at + 1:]
    del stack[at:]
    return items


def _global(module, attribute):
    if (module, attribute) not in _KNOWN:
        raise Refused(f"names {module}.{attribute}, which could run code; arrays of numbers do not need it")
    return _Global(_KNOWN[module, attribute])


def _make(function, arguments):
    what = function.what if isinstance(function, _Global) else None
    if what == "reconstruct" and getattr(arguments[0], "what", None) == "ndarray" and arguments[1] == (0,):
        return _Array()
    if what == "dtype":
        kind = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
        if kind not in ("u1", "|u1", "O", "O8", "O4", "|O"):
            raise Refused(f"holds arrays of type {kind!r}; images are uint8")
        return _Dtype(kind.strip("|")[0])
    if what == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
        return arguments[0].encode("latin-1")
    raise Refused("calls something other than numpy's functions that make arrays")


def _build(target, state, keep):
    if isinstance(target, _Dtype):
        return  # the byte order, which does not matter for bytes
    if not isinstance(target, _Array) or target.value is not None:
        raise Refused("sets the state of something other than an array")
    _, shape, dtype, fortran, data = state
    shape = tuple(shape)
    if not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in shape):
        raise ValueError(f"the pickle is damaged: an array of shape {shape}")
    if dtype.kind == "O":
        if type(data) is not list or len(shape) != 1 or len(data) != shape[0]:
            raise ValueError(f"the pickle is damaged: an array of shape {shape} with another number of elements")
        target.value = _Elements(data)
        return
    data = data.encode("latin-1") if isinstance(data, str) else data
    count = 1
    for n in shape:
        count *= n
    if not isinstance(data, bytes) or len(data) != count:
        raise ValueError(f"the pickle is damaged: an array of shape {shape} with another number of bytes")
    target.value = keep(np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C"))
