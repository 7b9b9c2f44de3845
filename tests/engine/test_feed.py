"""All feeds give the same batches, bit for bit and in the same order."""
import threading

import numpy as np
import pytest
import torch
from command import CAR, SHORT, TINY, call, checkpoint, differences
from engine import feed
from engine.feed import Ahead, FromFiles, Resident, open_feed
from errors import InputError
from loop import Sampler

CPU = torch.device("cpu")
FIELDS = ("images", "silhouettes", "cameras", "poses", "objects")


@pytest.fixture
def cars(data):
    from datasets import CVPR18
    return CVPR18(str(data), [CAR], "train", str(data / ".cache"))


def opened(kind, cars, part=slice(None)):
    return kind(cars, Sampler(len(cars), 7, seed=3), CPU, part)


@pytest.mark.parametrize("part", [slice(None), slice(2, 5)])
@pytest.mark.parametrize("kind", [FromFiles, Ahead, Resident])
def test_every_way_gives_what_gather_gives(kind, part, cars, monkeypatch):
    monkeypatch.setattr(feed, "CHUNK", 10)
    way, sampler = opened(kind, cars, part), Sampler(len(cars), 7, seed=3)
    for step in (1, 2, 3, 20, 21, 5):  # a resumed run starts anywhere
        batch, wanted = way.batch(step), cars.gather(sampler.batch(step)[part])
        for field in FIELDS:
            got, known = getattr(batch, field), getattr(wanted, field)
            assert got.dtype == known.dtype and torch.equal(got, known), (field, step)
    assert batch.images.dtype == torch.float32 and 0 <= batch.images.min() <= batch.images.max() <= 1
    np.testing.assert_array_equal(batch.silhouettes, batch.images[:, 3])
    way.close()


def test_the_next_batch_is_read_by_a_thread_meanwhile(cars):
    read, begun, readers = cars.read, threading.Event(), []

    def noted(indices, step=None, part=slice(None)):
        readers.append((step, threading.current_thread()))
        if step == 2:
            begun.set()
        return read(indices, step, part)
    cars.read = noted
    way = opened(Ahead, cars)
    way.batch(1)
    assert begun.wait(30), "step 2 is read before it is asked for"
    way.batch(2)
    way.close()
    assert [step for step, _ in readers][:2] == [1, 2] and threading.main_thread() not in [t for _, t in readers]


def test_what_a_thread_cannot_read_is_told_in_its_step(cars):
    read = cars.read

    def damaged(indices, step=None, part=slice(None)):
        if step == 2:
            raise InputError("an image is damaged")
        return read(indices, step, part)
    cars.read = damaged
    way = opened(Ahead, cars)
    way.batch(1)
    with pytest.raises(InputError, match="an image is damaged"):
        way.batch(2)
    way.close()


def test_what_is_chosen(cars, monkeypatch):
    sampler = Sampler(len(cars), 7, seed=3)

    def chosen(data_on, device=CPU):
        return type(open_feed(cars, sampler, device, slice(None), data_on))
    assert chosen("auto") is chosen("host") is FromFiles and chosen("device") is Resident
    gpu, room = torch.device("cuda", 0), [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room[0], 80e9))
    monkeypatch.setattr(feed, "Resident", lambda *a: "resident")
    monkeypatch.setattr(feed, "Ahead", lambda *a: "ahead")
    size = sum(t.numel() * t.element_size() for t in cars.read(range(len(cars))).tensors())
    assert feed.size_of(cars) == size and size > len(cars) * 4 * 64 * 64
    for room[0], wanted in ((2 * size, "resident"), (2 * size - 2, "ahead")):
        assert open_feed(cars, sampler, gpu, slice(None), "auto") == wanted
    cars.augments = True
    assert open_feed(cars, sampler, gpu, slice(None), "auto") == "ahead"
    with pytest.raises(InputError, match="--data_on=device: CVPR18 crops its images anew for every batch; give host"):
        chosen("device")


def test_a_run_is_the_same_wherever_its_images_are(ae, data, template, tmp_path, capsys):
    assert call("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--lambda_adv=0", "--obj_dir",
                template, *TINY, *SHORT, "--data_on=device") == 0
    assert "all images are in the memory of cpu: 0.0 GB" in capsys.readouterr().out
    assert differences(checkpoint(tmp_path / "run")["models"], checkpoint(ae)["models"]) == []
