"""benchmarks/claim.py: its statistics compared with plain ones, and tiny runs of it."""
import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command import CAR, ROOT


@pytest.fixture(scope="module")
def claim():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("claim")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_sign_flips_are_all_counted(claim, n):
    d = np.random.default_rng(n).normal(.5, 1, n)
    sums = [abs(sum(s * v for s, v in zip(signs, d))) for signs in itertools.product((-1, 1), repeat=n)]
    assert claim.sign_flip_test(d) == pytest.approx(np.mean([s >= abs(d.sum()) - 1e-12 for s in sums]))


def test_sign_flips_of_known_cases(claim):
    assert claim.sign_flip_test([.1] * 8) == pytest.approx(2 / 256)
    assert claim.sign_flip_test([1, -1]) == 1 and claim.sign_flip_test([0, 0, 0]) == 1
    assert claim.sign_flip_test(np.full(20, .03)) == pytest.approx(2 / 2 ** 20)
    with pytest.raises(ValueError):
        claim.sign_flip_test([])


def test_interval_is_students(claim):
    values = [1.0, 2.0, 4.0]
    found = claim.interval(values)  # t(0.975, 2 degrees of freedom) = 4.302653
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    assert found["mean"] == pytest.approx(7 / 3) and found["high"] - found["mean"] == pytest.approx(half, rel=1e-5)
    assert claim.interval([.5]) == {"mean": .5, "low": None, "high": None, "n": 1}


def row(arm, c, seed, iou):
    test = {"iou": iou, "mmd": 0.1}
    return {"setting": "small", "arm": arm, "class": c, "seed": seed, "seconds": 60.0,
            "validation": [[500, iou - .1], [900, iou], [1000, iou - .02]], "test": {"best": test, "last": test}}


def test_what_is_collected(claim, tmp_path):
    rows = [row(arm, c, seed, .4 + .1 * (c == "car") + .03 * (arm == "best") + .01 * seed)
            for arm in ("featGAN", "best") for c in ("car", "sofa") for seed in range(3)]
    rows.pop()  # best of sofa, seed 2
    result = claim.collected(rows)
    best = result["small"]["arms"]["best"]
    assert best["best"]["iou"]["car"]["mean"] == pytest.approx(.54) and best["best"]["iou"]["car"]["n"] == 3
    assert best["best"]["iou"]["mean"]["n"] == 2 and best["best"]["iou"]["mean"]["mean"] == pytest.approx(.485)
    assert best["fall_from_best_validation"]["mean"] == pytest.approx(.02)
    assert best["rise_in_last_tenth"]["mean"] == pytest.approx(-.02)
    against = result["small"]["against"]["best"]["best"]
    assert against["n"] == 5 and against["mean"] == pytest.approx(.03) and against["p"] == pytest.approx(2 / 32)
    assert result["small"]["curves"]["best"]["car"][0] == [500, pytest.approx(.44), 3]
    text = claim.table(result)
    assert "| best | 0.540 ± 0.025 | 0.435" in text and "+0.030 (0.062)" in text
    claim.draw(result, tmp_path / "claim.png")
    assert (tmp_path / "claim.png").stat().st_size > 10000


def test_runs_are_done_once(claim, data, template, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claim, "RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(claim.common, "HERE", str(tmp_path))
    monkeypatch.setitem(claim.SETTINGS, "small", f"--enc_width=4 --latent_dim=16 --batch_size=4 --n_iters=2 --ckpt_step=1 "
                                                 f"--obj_dir={template}")
    asked = [f"--data_dir={data}", f"--runs={tmp_path}/runs", "--arms", "AE", "best", "--classes", "car", "--seeds", "1",
             "--device=cpu", "--jobs=2"]
    assert claim.main([*asked, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2 and all(line.count(" && ") == 2 and "--resume" in line for line in listed)
    assert claim.main(asked) == 0
    kept = [json.loads(line) for line in (tmp_path / "results" / "claim_runs.jsonl").read_text().splitlines()]
    assert sorted(r["arm"] for r in kept) == ["AE", "best"]
    assert all([s for s, _ in r["validation"]] == [1, 2] and 0 <= r["test"]["last"]["iou"] <= 1 for r in kept)
    assert not (tmp_path / "runs" / "small-AE-car-0" / "last.pt").exists()
    written = json.loads((tmp_path / "results" / "claim.json").read_text())
    assert written["runs"] == 2 and set(written["results"]["small"]["arms"]) == {"AE", "best"}
    assert (tmp_path / "runs" / "compare-small-car" / "compare.png").exists()
    capsys.readouterr()
    assert claim.main(asked) == 0 and "2 runs, 2 of them done before" in capsys.readouterr().out
    assert claim.main([*asked, "--list"]) == 0 and not capsys.readouterr().out.strip()


def test_a_run_that_fails_is_told(claim, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claim, "RESULTS", str(tmp_path / "results"))
    assert claim.main([f"--data_dir={tmp_path}", f"--runs={tmp_path}/runs", "--arms", "AE", "--classes", CAR, "--seeds",
                       "1", "--device=cpu"]) == 1
    assert "exit code 2, see" in capsys.readouterr().err
    assert "has no 02958343_train_images.npz" in Path(f"{tmp_path}/runs/small-AE-{CAR}-0.log").read_text()
