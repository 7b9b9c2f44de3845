"""The cost of reading NIPS17 and Pascal3D: opening, the data of a step, a crop, memory.

    python benchmarks/published_data.py [GB]      writes benchmarks/results/published_data.json

NIPS17: a class of 1000 objects with 20 views. The images are hard links to a few small ones, so there are as many files
as in a real class, made within seconds. Pascal3D: crops of 375x500 images on one thread; and a training on a class of
GB gigabytes (default 1.5), whose anonymous resident memory (RssAnon in /proc) is sampled from the first opening on.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import scipy.io
import torch
from PIL import Image

import common
from datasets import NIPS17, Pascal3D
from training_step import options
from training import Trainer

CLASS = "02958343"
OBJECTS, VIEWS = 1000, 20


def quiet(_line):
    pass


def make_nips17(folder):
    rng = np.random.default_rng(0)
    names = [f"object_{i:04d}" for i in range(OBJECTS)]
    first = os.path.join(folder, "first")
    os.makedirs(first)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f"{first}/render.png")
    Image.fromarray(rng.integers(0, 65536, (64, 64)).astype(np.uint16)).save(f"{first}/depth.png")
    np.savetxt(f"{first}/view.txt", np.stack([rng.uniform(-180, 180, VIEWS), rng.uniform(-20, 40, VIEWS),
                                              np.zeros(VIEWS), np.full(VIEWS, 2.0)], 1))
    scipy.io.savemat(f"{first}/v.mat", {"Volume": np.ones((32, 32, 32), np.uint8)}, do_compression=True)
    volumes = os.path.join(folder, "voxels", "modelVoxels32", CLASS)
    os.makedirs(volumes)
    for name in names:
        here = os.path.join(folder, "renders", CLASS, name)
        os.makedirs(here)
        for i in range(VIEWS):
            os.link(f"{first}/render.png", f"{here}/render_{i}.png")
            os.link(f"{first}/depth.png", f"{here}/depth_{i}.png")
        os.link(f"{first}/view.txt", f"{here}/view.txt")
        os.link(f"{first}/v.mat", f"{volumes}/{name}.mat")
    with open(os.path.join(folder, "splits.json"), "w") as out:
        json.dump({CLASS: {"test": names}}, out)


def nips17():
    with tempfile.TemporaryDirectory() as folder:
        make_nips17(folder)
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            data = NIPS17(folder, [CLASS], "test", folder + "/cache", say=quiet)
            seconds.append(time.perf_counter() - start)
        trainer = Trainer(options(dataset="NIPS17", wAzimuth=15.0, wElevation=20.0), torch.device("cpu"))
        rng, reading, whole = np.random.default_rng(0), [], []
        for step in range(1, 13):
            start = time.perf_counter()
            batch = data.gather(rng.integers(0, len(data), 128), step)
            read = time.perf_counter()
            trainer.step(step, batch)
            reading.append(1e3 * (read - start))
            whole.append(1e3 * (time.perf_counter() - start))
        reading, whole = statistics.median(reading[2:]), statistics.median(whole[2:])
        return {"objects": OBJECTS, "views": VIEWS, "first_opening_s": round(seconds[0], 2),
                "second_opening_s": round(min(seconds[1:]), 3), "data_of_a_step_ms": round(reading, 1),
                "step_ms": round(whole, 1), "data_share": round(reading / whole, 4)}


def write_class(folder, gigabytes, height=375, width=500):
    """Write `car_train.npz` with pictures of this total size, and `car_val.npz` with four pictures."""
    rng = np.random.default_rng(0)
    for part, count in (("val", 4), ("train", int(gigabytes * 1e9 / (3 * height * width)))):
        images = np.empty(count, object)
        images[:] = [rng.integers(0, 256, (height, width + i % 2, 3), dtype=np.uint8) for i in range(count)]
        rotations = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
        rotations *= np.linalg.det(rotations)[:, None, None]
        np.savez(os.path.join(folder, f"car_{part}.npz"), images=images,
                 images_ref=np.full((count, 224, 224, 4), 255, np.uint8),
                 bounding_boxes=np.tile([100.0, 80, 280, 210], (count, 1)), rotation_matrices=rotations,
                 voxels=np.ones((count, 32, 32, 32), bool))
        del images
    return count


def anonymous_mb(process):
    """The largest RssAnon of a running process, sampled fifty times per second."""
    most = 0
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as lines:
                most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
        except (OSError, StopIteration):
            pass
        time.sleep(0.02)
    return round(most / 1024)


def pascal3d(gigabytes):
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        maker = "import published_data as p, sys; p.write_class(sys.argv[1], float(sys.argv[2]))"
        path = os.pathsep.join([common.HERE, os.environ.get("PYTHONPATH", "")])
        subprocess.run([sys.executable, "-c", maker, folder, str(gigabytes)], check=True,
                       env={**os.environ, "PYTHONPATH": path})
        result["class_gb"] = round(os.path.getsize(f"{folder}/car_train.npz") / 1e9, 2)
        train = [sys.executable, f"{common.ROOT}/3D-GAN.py", "--mode=train", "--dataset=Pascal3D",
                 f"--data_dir={folder}", "--device=cpu", "--enc_width=8", "--latent_dim=64", "--batch_size=32",
                 "--n_iters=10"]
        for name in ("first", "second"):
            process = subprocess.Popen([*train, f"--ckpt_dir={folder}/{name}"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            result[f"peak_anonymous_mb_{name}_run"] = anonymous_mb(process)
            if process.returncode:
                raise SystemExit("the training run failed")
        torch.set_num_threads(1)
        data = Pascal3D(folder, [CLASS], "train", folder + "/.cache", say=quiet)
        rng, times = np.random.default_rng(0), []
        for step in range(1, 14):
            start = time.process_time()
            data.gather(rng.integers(0, len(data), 128), step)
            times.append(1e3 * (time.process_time() - start) / 128)
        result["crop_and_resize_ms_an_image_and_core"] = round(statistics.median(times[3:]), 3)
    return result


if __name__ == "__main__":
    measured = {"nips17": nips17(), "pascal3d": pascal3d(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)}
    common.keep("published_data", measured)
