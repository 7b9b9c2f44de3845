"""Object arrays of images: numpy's pickles of every protocol are read, other pickles are refused, and no code runs."""
import io
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from readers.object_arrays import Refused, read_objects

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, shape, dtype=np.uint8)
          for shape in ((7, 5, 3), (120, 90, 3), (1, 1, 3), (64, 64, 3))]


def array(items):
    result = np.empty(len(items), object)
    result[:] = items
    return result


def read(data):
    return read_objects(io.BytesIO(data), lambda image: image.copy())


def assert_read(data, images=IMAGES):
    found = read(data)
    assert len(found) == len(images)
    for one, other in zip(found, images):
        assert one.dtype == np.uint8 and np.array_equal(one, other)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_numpys_pickles_are_read(protocol):
    assert_read(pickle.dumps(array(IMAGES), protocol=protocol))


def test_what_numpy_saves(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=array(IMAGES * 300))  # more than one batch of a pickled list
    with np.load(tmp_path / "a.npz", allow_pickle=True) as file:
        assert len(file["images"]) == 1200
    import zipfile
    with zipfile.ZipFile(tmp_path / "a.npz") as archive, archive.open("images.npy") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        np.lib.format.read_array_header_1_0(stream)
        found = read_objects(stream, lambda image: image.copy())
    assert all(np.array_equal(a, b) for a, b in zip(found, IMAGES * 300))


def test_fortran_order_and_repeated_images():
    assert_read(pickle.dumps(array([np.asfortranarray(image) for image in IMAGES])))
    assert_read(pickle.dumps(array([IMAGES[0]] * 3)), [IMAGES[0]] * 3)
    assert read(pickle.dumps(np.empty(0, object))) == []


def test_a_pickle_of_python_2():
    """The bytes of its arrays are strings, and its modules have old names."""
    image = IMAGES[1]

    def short(number):
        return b"K" + bytes([number])

    def build(shape, kind, flags, data):
        return (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + short(0) + b"\x85U\x01btR("
                + short(1) + b"(" + b"".join(map(short, shape)) + b"t"
                + b"cnumpy\ndtype\n(U\x02" + kind + short(0) + short(1) + b"tR(" + short(3) + b"U\x01|NNN"
                + b"J\xff\xff\xff\xffJ\xff\xff\xff\xff" + short(flags) + b"tb" + b"I00\n" + data + b"tb")

    inner = build(image.shape, b"u1", 0, b"T" + struct.pack("<i", image.size) + image.tobytes())
    data = b"\x80\x02" + build((2,), b"O8", 63, b"](" + inner + inner + b"e") + b"."
    assert_read(data, [image, image])
    assert np.array_equal(pickle.loads(data, encoding="latin1")[1], image), "numpy reads the same"


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def nested(payload):
    inner = np.empty(1, object)
    inner[0] = payload
    return inner


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("hide", [lambda p: p, nested, lambda p: [p], lambda p: (1, {"a": p}),
                                  lambda p: np.array((p,), dtype=[("a", object)])])
def test_a_payload_does_not_run(tmp_path, protocol, hide):
    proof = tmp_path / "it ran"
    data = pickle.dumps(array([IMAGES[0], hide(Payload(proof))]), protocol=protocol)
    with pytest.raises(ValueError):
        read(data)
    assert not proof.exists()
    pickle.loads(data)
    assert proof.exists(), "the payload works where it is let"


EVIL = [
    b"cos\nsystem\n(S'touch {}'\ntR.", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x07touch x\x85R.",
    b"cbuiltins\neval\n(S'open(\"{}\", \"w\")'\ntR.", b"(S'touch {}'\nios\nsystem\n.",
    b"cnumpy\nndarray.__class__\n(tR.", b"\x80\x04\x8c\x05numpy\x8c\x16f2py.crackfortran.evald\x93.",
    b"cnumpy.testing._private.utils\nrunstring\n(S'open(\"{}\", \"w\")'\n}}tR.", b"c__builtin__\ngetattr\n(tR.",
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\nK\x00\x85U\x01btR.",
    b"\x80\x02cnumpy\nndarray\n(K\x01tR.", b"\x80\x02cnumpy\nndarray\n)\x81.", b"\x82\x01.", b"Pid\n.", b"Q."]


@pytest.mark.parametrize("data", EVIL)
def test_nothing_but_numpys_arrays_is_named_or_called(tmp_path, data):
    with pytest.raises(Refused):
        read(data.replace(b"{}", str(tmp_path / "it ran").encode()))
    assert not (tmp_path / "it ran").exists()


def test_the_sentence_names_what_was_wanted():
    with pytest.raises(Refused, match="os.system, which could run code"):
        read(EVIL[0])
    with pytest.raises(Refused, match="type 'f8'"):
        read(pickle.dumps(array([np.zeros((2, 2, 3))])))


@pytest.mark.parametrize("items", [[None], ["text"], [3], [b"bytes"]])
def test_elements_that_are_no_arrays_are_none(items):
    assert read(pickle.dumps(array([IMAGES[0], *items])))[1:] == [None]


@pytest.mark.parametrize("thing", [3, "text", [1], IMAGES[0], None])
def test_another_thing_than_an_object_array(thing):
    with pytest.raises(ValueError):
        read(pickle.dumps(thing))


def test_blocks_that_are_too_long_are_not_read():
    for data in (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40), b"\x80\x03B" + struct.pack("<I", 1 << 31)):
        with pytest.raises(ValueError):
            read(data)


def test_damage_never_ends_in_another_error_or_runs():
    whole = pickle.dumps(array([IMAGES[0], IMAGES[2]]), protocol=4)
    for position in range(len(whole)):
        for change in (whole[:position], whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1:],
                       whole[:position] + b"." + whole[position:]):
            try:
                found = read(change)
                assert all(image is None or image.dtype == np.uint8 for image in found)
            except ValueError:
                pass


def test_images_are_handed_on_one_by_one():
    alive = []

    def keep(image):
        alive.append(image.size)
        return len(alive)

    assert read_objects(io.BytesIO(pickle.dumps(array(IMAGES))), keep) == [1, 2, 3, 4]
    assert alive == [image.size for image in IMAGES]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_no_more_than_an_image_is_held(protocol):
    images = [np.full((200, 300, 3), i, np.uint8) for i in range(100)]
    stream = io.BytesIO(pickle.dumps(array(images), protocol=protocol))
    tracemalloc.start()
    try:
        assert len(read_objects(stream, lambda image: image.size)) == 100
        assert tracemalloc.get_traced_memory()[1] < 8 * 180_000, "of 100 images"
    finally:
        tracemalloc.stop()
