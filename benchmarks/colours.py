"""Colours on the embedded cars and chairs: what they are worth beside two controls, and what they do to the shapes.

    python benchmarks/colours.py --runs DIR      trains and measures what is missing there, then collects
    python benchmarks/colours.py --collect       gathers results/colours_runs.jsonl into colours.json, and prints it

Runs of one class and seed differ in their arm alone: without colours, with them, and with --texture_to_shape. Networks
of shapes start from the same weights and see the same batches, so differences of IoU are paired. A run is one of the
command line in DIR/<name>; when it is finished, its figures become a line of results/colours_runs.jsonl.
"""
import argparse
import json
import os
import subprocess
import sys

import numpy as np

import common

CLASSES = {"car": "02958343", "chair": "03001627"}
ARMS = {"none": [], "faces": ["--texture=faces"], "to_shape": ["--texture=faces", "--texture_to_shape"]}
TO_SHAPE = ("car",)  # classes that --texture_to_shape is tried on
SEEDS = range(3)
DATA = "--n_train=200 --n_val=8 --n_test=12".split()
SETTING = ("--enc_width=16 --batch_size=16 --lr=1e-3 --lambda_Gprior=0 --lambda_adv=0.5 --confusion=ce "
           "--standardize_code --lr_D=1e-3 --n_iters=800 --ckpt_step=800 --sample_step=800 --log_step=50 "
           "--device=cpu --threads=1").split()
SCRIPT = os.path.join(common.ROOT, "3D-GAN.py")
RECORDS = os.path.join(common.HERE, "results", "colours_runs.jsonl")
SHAPES = ("iou", "own_view", "new_view")


def program(*arguments):
    subprocess.run([sys.executable, SCRIPT, *arguments], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def measured():
    if not os.path.exists(RECORDS):
        return []
    with open(RECORDS) as lines:
        return [json.loads(line) for line in lines]


def measure(runs, name, seed, arm):
    """Train and evaluate one run and keep its figures."""
    key = {"class": name, "seed": seed, "arm": arm}
    if any(key == {part: record[part] for part in key} for record in measured()):
        return
    folder = os.path.join(runs, f"{name}-{arm}-{seed}")
    program("--mode=train", f"--data_dir={runs}/data", "--class_ids", CLASSES[name], f"--seed={seed}",
            f"--ckpt_dir={folder}", "--resume", *SETTING, *ARMS[arm])
    program("--mode=evaluation", f"--ckpt_dir={folder}", "--device=cpu", "--threads=1")
    with open(os.path.join(folder, "evaluation_test_last.json")) as file:
        found = json.load(file)
    figures = {figure: found[figure][CLASSES[name]] for figure in found
               if figure in SHAPES or figure.startswith(("psnr", "ssim"))}
    with open(RECORDS, "a") as out:
        out.write(json.dumps({**key, **figures}) + "\n")


def collect():
    """Means over the seeds, and paired differences to the run without colours, of each class and arm."""
    records = measured()
    table = {}
    for name in CLASSES:
        for arm in ARMS:
            mine = {r["seed"]: r for r in records if (r["class"], r["arm"]) == (name, arm)}
            base = {r["seed"]: r for r in records if (r["class"], r["arm"]) == (name, "none")}
            if not mine:
                continue
            figures = [figure for figure in next(iter(mine.values())) if figure not in ("class", "seed", "arm")]
            row = {figure: round(float(np.mean([r[figure] for r in mine.values()])), 4) for figure in figures}
            if arm != "none":
                row["iou_less_none"] = [round(mine[s]["iou"] - base[s]["iou"], 4) for s in sorted(mine) if s in base]
                row["psnr_new_less_mean"], row["psnr_new_less_nearest"] = (
                    [round(mine[s]["psnr_new"] - mine[s][f"psnr_new_{control}"], 3) for s in sorted(mine)]
                    for control in ("mean", "nearest"))
            table[f"{name} {arm}"] = {"seeds": sorted(mine), **row}
    common.keep("colours", {"data": DATA, "setting": SETTING, "arms": ARMS, "table": table})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", help="folder of the runs and their data")
    p.add_argument("--collect", action="store_true", help="only gather what is measured")
    options = p.parse_args()
    if not options.collect:
        if not options.runs:
            p.error("give --runs, a folder for the runs, or --collect")
        program("--mode=make_dataset", f"--data_dir={options.runs}/data", "--class_ids", *CLASSES.values(), *DATA)
        for seed in SEEDS:
            for name in CLASSES:
                for arm in ARMS if name in TO_SHAPE else list(ARMS)[:2]:
                    measure(options.runs, name, seed, arm)
    collect()


if __name__ == "__main__":
    main()
