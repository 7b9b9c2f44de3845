"""The claim: which way to train learns shapes best from single views, on real shapes, over classes and seeds.

    python benchmarks/claim.py --data_dir DIR              trains and measures what is missing, then collects
    python benchmarks/claim.py --data_dir DIR --list       prints one command a line, for any scheduler
    python benchmarks/claim.py --collect                   gathers: results/claim.json, .md, .png and claim_runs.jsonl

DIR holds a dataset in CVPR18's layout, of the classes asked for. The committed figures are of voxel grids of ShapeNet,
32 cells a side, which `3D-GAN.py --mode=make_dataset --mesh_dir=GRIDS --split_file=SPLIT --front=+x --voxels=surface
--data_dir=DIR` turned into one: truth and prediction are surfaces, voxelised by the same rule.

A run is one of the command line, in RUNS/<name>; one that was stopped goes on. When it is finished, its figures become
one line of results/claim_runs.jsonl, after which it is never run again. Checkpoints are chosen by validation; the test
set is measured once, of the best and of the last.
"""
import argparse
import concurrent.futures
import json
import math
import os
import shlex
import subprocess
import sys
import threading

import numpy as np

import common
from engine.runs import METRICS

CLASSES = {"airplane": "02691156", "car": "02958343", "chair": "03001627", "sofa": "04256520"}
GAN = "--confusion=ce --standardize_code --lr_D=1e-3"
ARMS = {  # options of each, beside those of the setting
    "AE": "--mode=train --lambda_adv=0",
    "VPL": "--mode=trainCVPR19",
    "featGAN": f"--mode=train {GAN}",
    "featGAN+pressure": f"--mode=train {GAN} --lambda_pressure=1e-4",
    "best": "--mode=train --preset=best",
    "pairs2": "--mode=train --lambda_adv=0 --pairs=2",
    "pairs2+pressure": "--mode=train --lambda_adv=0 --pairs=2 --lambda_pressure=1e-4",
    "pairs2+priors": "--mode=train --lambda_adv=0 --pairs=2 --lambda_pressure=1e-4 --lambda_front=10 --lambda_flat=1 "
                     "--lambda_mirror=0.5 --clip_norm=5"}  # best without adversary, prior of codes, matches
NARROW = {"VPL": "--disc_width=32"}  # as the encoder, where that is narrow; by published widths VPL takes hours
FIVE_SEEDS = "featGAN", "best", "pairs2+pressure"  # the others have three
SMALL = "--enc_width=16 --batch_size=32 --lr=1e-3 --lr_schedule=cosine --ckpt_step=500"
NO_PRIOR = "--lambda_Gprior=0"  # small runs of all arms but those with a preset of their own
SETTINGS = {  # the budgets: all arms of a setting have the same
    "small": f"{SMALL} --n_iters=6000",
    "long": f"{SMALL} --n_iters=12000",
    "one_view": f"{SMALL} --n_iters=6000 --trainViews=1",
    "published": "--enc_width=64 --batch_size=128 --n_iters=20000"}
QUIET = "--sample_step=1000000 --log_step=100"
TESTED = "best", "last"
BASE = "featGAN"  # what the others are compared with

RESULTS = os.path.join(common.HERE, "results")
SCRIPT = os.path.join(common.ROOT, "3D-GAN.py")


class Run:
    """One arm of one class with one seed at one setting."""

    def __init__(self, setting, arm, class_name, seed, args):
        self.key = dict(setting=setting, arm=arm, **{"class": class_name}, seed=seed)
        self.name = "-".join([setting, arm, class_name, str(seed)])
        self.folder = os.path.join(args.runs, self.name)
        class_id = CLASSES.get(class_name, class_name)
        self.device = [f"--device={args.device}", "--threads=1"]
        narrow = NARROW.get(arm, "") if setting != "published" else ""
        prior = NO_PRIOR if setting != "published" and "--preset" not in ARMS[arm] else ""
        self.training = [*ARMS[arm].split(), *SETTINGS[setting].split(), *f"{prior} {narrow} {QUIET}".split(),
                         f"--seed={seed}", "--class_ids", class_id, f"--data_dir={args.data_dir}",
                         f"--ckpt_dir={self.folder}", *self.device]

    def commands(self):
        """Training, gone on with where it stopped, and measuring: lists of arguments. Both know when they are done."""
        yield [*self.training, "--resume"]
        for flag in TESTED:
            yield ["--mode=evaluation", f"--ckpt_dir={self.folder}", "--split=test", f"--eval_flag={flag}",
                   *self.device]

    def line(self):
        """For a scheduler's shell."""
        return " && ".join(shlex.join([sys.executable, SCRIPT, *command]) for command in self.commands())

    def figures(self):
        """What is kept of a finished run, None of another."""
        try:
            tested = {flag: _json(os.path.join(self.folder, f"evaluation_test_{flag}.json")) for flag in TESTED}
            options = _json(os.path.join(self.folder, "options.json"))
            with open(os.path.join(self.folder, METRICS)) as lines:
                records = [json.loads(line) for line in lines]
        except (FileNotFoundError, ValueError):
            return None
        curve = [[r["step"], round(r["val_iou"], 5)] for r in records if "val_iou" in r]
        if not curve or curve[-1][0] < options["options"]["n_iters"]:
            return None
        if tested["last"]["protocol"]["step"] != curve[-1][0]:
            return None  # measured before it went on
        class_id = options["options"]["class_ids"][0]
        return {**self.key, "seconds": round(records[-1]["time"], 1), "validation": curve,
                "test": {flag: {name: value[class_id] for name, value in t.items()
                                if isinstance(value, dict) and class_id in value} for flag, t in tested.items()},
                "options": " ".join(self.training[:-5]), "commit": options["versions"]["commit"],
                "device": options["options"]["device"]}

    def forget_weights(self):
        """All but the best: hundreds of runs would fill a disk."""
        for name in ("last.pt", "last.prev.pt"):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                os.remove(path)


def _json(path):
    with open(path) as file:
        return json.load(file)


# ---- doing ------------------------------------------------------------------------------------------

class Kept:
    """benchmarks/results/claim_runs.jsonl: a line a finished run."""

    def __init__(self, path):
        self.path, self.lock, self.rows = path, threading.Lock(), []
        if os.path.exists(path):
            with open(path) as lines:
                self.rows = [json.loads(line) for line in lines]

    def has(self, run):
        return any(all(row[k] == v for k, v in run.key.items()) for row in self.rows)

    def add(self, figures):
        with self.lock:
            self.rows.append(figures)
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path, "a") as out:
                out.write(json.dumps(figures) + "\n")


def planned(args):
    """The runs asked for: by seed first, so that what is there early can be compared."""
    runs = []
    for seed in range(max(args.seeds or [5])):
        for arm in args.arms:
            if seed < (args.seeds[0] if args.seeds else 5 if arm in FIVE_SEEDS else 3):
                runs += [Run(setting, arm, c, seed, args) for setting in args.settings for c in args.classes]
    return runs


def do(run, kept):
    """Train and measure one; what it says goes to RUNS/<name>.log. Returns what went wrong, if anything did."""
    os.makedirs(os.path.dirname(run.folder), exist_ok=True)
    if run.figures() is None:
        with open(run.folder + ".log", "a") as log:
            for command in run.commands():
                code = subprocess.call([sys.executable, SCRIPT, *command], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
                if code:
                    return f"{run.name}: exit code {code}, see {run.folder}.log"
    figures = run.figures()
    if figures is None:
        return f"{run.name}: finished without figures, see {run.folder}.log"
    kept.add(figures)
    run.forget_weights()
    return None


def do_all(runs, kept, jobs):
    missing = [run for run in runs if not kept.has(run)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before; {jobs} at a time", flush=True)
    failed = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        going = {pool.submit(do, run, kept): run for run in missing}
        for number, done in enumerate(concurrent.futures.as_completed(going), 1):
            problem = done.result()
            failed += [problem] if problem else []
            print(problem or f"{number}/{len(missing)} {going[done].name}: test IoU "
                  f"{kept_figure(kept, going[done]):.4f}", flush=True)
    return failed


def kept_figure(kept, run):
    return next(r["test"]["best"]["iou"] for r in kept.rows if all(r[k] == v for k, v in run.key.items()))


# ---- figures ----------------------------------------------------------------------------------------

def interval(values):
    """{'mean', 'low', 'high', 'n'}: mean and its 95 % interval by Student's t; no interval of one value."""
    from scipy.stats import t
    values = np.asarray(values, float)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
    mean = float(values.mean())
    return {"mean": mean, "low": None if half is None else mean - float(half),
            "high": None if half is None else mean + float(half), "n": len(values)}


def sign_flip_test(differences):
    """Exact two-sided p of paired differences: the share of all 2^n choices of their signs whose sum is as far from 0
    as theirs. Up to 40 of them: sums of the halves are counted against each other."""
    d = np.asarray(differences, float)
    if not len(d) or len(d) > 40:
        raise ValueError(f"1 to 40 differences, got {len(d)}")
    scale = np.abs(d).sum() or 1.0

    def sums(part):
        found = np.zeros(1)
        for value in part:
            found = np.concatenate([found - value, found + value])
        return found
    first, second = sums(d[:len(d) // 2]), np.sort(sums(d[len(d) // 2:]))
    far = abs(d.sum()) - 1e-9 * scale
    above = len(second) - np.searchsorted(second, far - first, "left")
    below = np.searchsorted(second, -far - first, "right")
    return float(min(1.0, (above + below).sum() / 2 ** len(d)))


def collected(rows):
    """Figures of each setting: {setting: {'arms', 'against', 'curves'}}; only classes with every arm's figure count in
    a mean over classes."""
    return {setting: _of_setting([r for r in rows if r["setting"] == setting])
            for setting in dict.fromkeys(r["setting"] for r in rows)}


def _of_setting(rows):
    arms = [arm for arm in ARMS if any(r["arm"] == arm for r in rows)]
    classes = list(dict.fromkeys(r["class"] for r in rows))
    result = {"arms": {}, "against": {}, "curves": {}}
    for arm in arms:
        mine = [r for r in rows if r["arm"] == arm]
        figures = {}
        for flag in TESTED:
            names = sorted(set.intersection(*(set(r["test"][flag]) for r in mine)))
            figures[flag] = {name: _over(mine, classes, lambda r: r["test"][flag][name]) for name in names}
        figures["seconds"] = interval([r["seconds"] for r in mine])
        peaks = [max(v for _, v in r["validation"]) - r["validation"][-1][1] for r in mine]
        rises = [r["validation"][-1][1] - _before_end(r["validation"]) for r in mine]
        figures["fall_from_best_validation"] = interval(peaks)
        figures["rise_in_last_tenth"] = interval(rises)
        result["arms"][arm] = figures
        result["curves"][arm] = {c: _curve([r for r in mine if r["class"] == c]) for c in classes
                                 if any(r["class"] == c for r in mine)}
        for flag in TESTED if arm != BASE else ():
            pairs = _pairs(rows, arm, BASE, flag)
            if pairs:
                result["against"].setdefault(arm, {})[flag] = {
                    **interval([d for _, d in pairs]), "p": sign_flip_test([d for _, d in pairs][:40]),
                    "by": {f"{c} {seed}": round(d, 5) for (c, seed), d in pairs}}
    return result


def _over(rows, classes, value):
    """Of each class, and over classes: of every seed that has all of them, the mean."""
    by_class = {c: [value(r) for r in rows if r["class"] == c and _number(value(r))] for c in classes}
    seeds = {}
    for r in rows:
        if _number(value(r)):
            seeds.setdefault(r["seed"], []).append(value(r))
    whole = [np.mean(v) for v in seeds.values() if len(v) == len(classes)]
    return {**{c: interval(v) for c, v in by_class.items() if v}, **({"mean": interval(whole)} if whole else {})}


def _number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _before_end(curve):
    """Validation IoU at nine tenths of the run."""
    return next(value for step, value in reversed(curve) if step <= 0.9 * curve[-1][0] or step == curve[0][0])


def _curve(rows):
    """[[step, mean, n]] of validation IoU over seeds."""
    steps = sorted(set.intersection(*({s for s, _ in r["validation"]} for r in rows)))
    at = [dict(map(tuple, r["validation"])) for r in rows]
    return [[s, round(float(np.mean([figures[s] for figures in at])), 5), len(rows)] for s in steps]


def _pairs(rows, arm, other, flag):
    """[((class, seed), difference in IoU)] where both are there."""
    found = {(r["arm"], r["class"], r["seed"]): r["test"][flag]["iou"] for r in rows}
    return [((c, seed), value - found[other, c, seed]) for (a, c, seed), value in found.items()
            if a == arm and (other, c, seed) in found]


def table(settings):
    """Markdown: test IoU of the best checkpoint, by arm and class."""
    lines = []
    for setting, result in settings.items():
        classes = list(dict.fromkeys(c for f in result["arms"].values() for c in f["best"]["iou"] if c != "mean"))
        others = [n for n in ("view_agreement", "own_view", "new_view", "inside_out", "pose_probe")
                  if any(n in f["best"] for f in result["arms"].values())]
        lines += [f"Setting `{setting}`: {SETTINGS.get(setting, '')}", "",
                  "| arm | " + " | ".join([*classes, "mean", "of the last step", f"above {BASE} (p)", *others,
                                           "minutes"])
                  + " |", "| --- |" + " ---: |" * (len(classes) + 4 + len(others))]
        for arm, f in result["arms"].items():
            iou, last = f["best"]["iou"], f["last"]["iou"]
            above = result["against"].get(arm, {}).get("best")
            cells = [_cell(iou.get(c)) for c in [*classes, "mean"]] + [_cell(last.get("mean"))]
            cells.append(f"{above['mean']:+.3f} ({above['p']:.2g})" if above else "")
            cells += [_cell(_mean_of(f["best"].get(n))) for n in others] + [f"{f['seconds']['mean'] / 60:.0f}"]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _mean_of(figure):
    """The mean over classes; of a figure without one, over what there is."""
    if not figure:
        return None
    return figure.get("mean") or {**interval([v["mean"] for v in figure.values()]), "low": None}


def _cell(figure):
    if figure is None:
        return ""
    spread = "" if figure["low"] is None else f" ± {figure['mean'] - figure['low']:.3f}"
    return f"{figure['mean']:.3f}{spread}"


def draw(settings, path):
    """Bars of test IoU with 95 % intervals, and the curves of validation IoU over steps, a row a setting."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    most = max(len(next(iter(r["curves"].values()))) for r in settings.values())
    figure = Figure(figsize=(5 + 3.2 * most, 3.6 * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(settings), 1 + most, squeeze=False, gridspec_kw={"width_ratios": [1.8] + [1] * most})
    colours = {arm: f"C{i}" for i, arm in enumerate(ARMS)}
    for row, (setting, result) in zip(axes, settings.items()):
        arms = list(result["arms"])
        places = list(dict.fromkeys(c for f in result["arms"].values() for c in f["best"]["iou"]))
        places = [c for c in places if c != "mean"] + ["mean"] * ("mean" in places)
        for k, arm in enumerate(arms):
            iou = result["arms"][arm]["best"]["iou"]
            at = [(i, iou[c]) for i, c in enumerate(places) if c in iou]
            row[0].bar([i + (k - len(arms) / 2 + .5) * .8 / len(arms) for i, _ in at], [v["mean"] for _, v in at],
                       .8 / len(arms), color=colours[arm], label=arm,
                       yerr=[0 if v["low"] is None else v["mean"] - v["low"] for _, v in at], error_kw={"lw": .8})
        row[0].set_xticks(range(len(places)), places)
        row[0].set(title=f"{setting}: test IoU, 95 % intervals", ylim=(_floor(result), None))
        for axis, c in zip(row[1:], [c for c in places if c != "mean"]):
            for arm in arms:
                if c in result["curves"][arm]:
                    axis.plot(*zip(*[(s, v) for s, v, _ in result["curves"][arm][c]]), color=colours[arm], lw=1.2)
            axis.set(title=f"{c}: validation IoU", xlabel="iteration")
        for axis in row[1 + len([c for c in places if c != "mean"]):]:
            axis.remove()
        row[0].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def _floor(result):
    values = [v["mean"] for f in result["arms"].values() for v in f["best"]["iou"].values()]
    return max(0, min(values) - .15)


def pictures(args, kept):
    """For each class the input, the arms from new views and the truth: finished runs of seed 0 with their weights."""
    for setting in args.settings:
        for c in args.classes:
            runs = [Run(setting, arm, c, 0, args) for arm in ("AE", "featGAN", "best", "pairs2+pressure")]
            folders = [run.folder for run in runs
                       if kept.has(run) and os.path.exists(os.path.join(run.folder, "best.pt"))]
            if len(folders) > 1:
                subprocess.call([sys.executable, SCRIPT, "--mode=compare", "--eval_flag=best", "--split=test", "--runs",
                                 *folders, f"--sample_dir={os.path.join(args.runs, f'compare-{setting}-{c}')}"])


def collect(args, kept):
    for run in planned(args):
        figures = None if kept.has(run) else run.figures()
        if figures:
            kept.add(figures)
    if not kept.rows:
        return "no run is finished yet"
    settings = collected(kept.rows)
    common.write("claim", {"settings": {name: SETTINGS.get(name, "") for name in settings}, "arms": ARMS,
                           "runs": len(kept.rows), "results": settings})
    with open(os.path.join(RESULTS, "claim.md"), "w") as out:
        out.write(table(settings))
    draw(settings, os.path.join(RESULTS, "claim.png"))
    pictures(args, kept)
    print(table(settings))
    return None


def main(arguments=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data_dir", default=os.path.join(common.ROOT, "data", "claim"))
    p.add_argument("--runs", default=os.path.join(common.ROOT, "runs", "claim"), metavar="DIR")
    p.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["small"])
    p.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    p.add_argument("--classes", nargs="+", default=list(CLASSES), metavar="NAME", help="or ids")
    p.add_argument("--seeds", nargs=1, type=int, metavar="N",
                   help=f"so many for every arm (default: 5 for {', '.join(FIVE_SEEDS)}, 3 for the others)")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="runs at a time, one thread each")
    p.add_argument("--device", default="auto")
    p.add_argument("--list", action="store_true", help="print the commands of the runs that are missing")
    p.add_argument("--collect", action="store_true", help="gather only")
    args = p.parse_args(arguments)
    args.data_dir, args.runs = os.path.abspath(args.data_dir), os.path.abspath(args.runs)
    kept = Kept(os.path.join(RESULTS, "claim_runs.jsonl"))
    runs = planned(args)
    if args.list:
        print("\n".join(run.line() for run in runs if not kept.has(run)))
        return 0
    failed = [] if args.collect else do_all(runs, kept, args.jobs)
    problem = collect(args, kept)
    for line in [*failed, *([problem] if problem else [])]:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed or problem else 0


if __name__ == "__main__":
    sys.exit(main())
