"""A fourth dataset in one file, through the command line."""
import json
import subprocess
import sys

from command import CAR, ROOT, TINY, environment, metrics

PROGRAM = ROOT / "tests" / "programs" / "fourth_dataset.py"


def run(*commands):
    done = subprocess.run([sys.executable, PROGRAM, json.dumps([[str(a) for a in c] for c in commands])], text=True,
                          capture_output=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    return [int(code) for code in done.stdout.splitlines()[-1].split()[1:]], done.stdout, done.stderr


def test_every_mode_takes_it(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    codes, out, err = run(
        ("--mode=make_dataset", "--layout=Triples", "--data_dir", data, "--class_ids", CAR, "--n_train=4", "--n_val=2",
         "--n_test=2"),
        ("--mode=check_data", "--dataset=Triples", "--data_dir", data, "--sample_dir", tmp_path),
        ("--mode=train", "--dataset=Triples", "--data_dir", data, "--ckpt_dir", folder, "--brightness=50",
         "--sample_step=4", "--ckpt_step=2", "--log_step=1", *TINY),
        ("--mode=evaluation", "--ckpt_dir", folder, "--device=cpu"),
        ("--mode=reconstruct", "--ckpt_dir", folder, "--device=cpu", "--n_images=1"),
        ("--mode=MMD", "--ckpt_dir", folder, "--device=cpu"),
        ("--mode=trainCVPR19", "--dataset=Triples", "--data_dir", data, "--ckpt_dir", tmp_path / "VPL", "--n_iters=2",
         *TINY),
        ("--mode=make_dataset", "--layout=Triples", "--data_dir", tmp_path / "few", "--train_views=4"),
        ("--mode=train", "--ckpt_dir", tmp_path / "no", "--brightness=50"))
    assert codes == [0] * 7 + [2, 2], err
    assert "everything found is in order" in out and (tmp_path / "check_Triples.png").exists()
    overlap = float(out.split("voxels and masks overlap by ")[1].split()[0])
    assert overlap > 0.7
    assert [r["step"] for r in metrics(folder)] == [1, 2, 3, 4]  # its published n_iters
    options = json.loads((folder / "options.json").read_text())["options"]
    assert options["brightness"] == 50 and options["dataset"] == "Triples"
    told = json.loads((folder / "evaluation_test_last.json").read_text())
    assert told["protocol"]["grid"] == "32^3, coordinates * 31/32 + 0.5" and 0 <= told["iou"][CAR] <= 1
    assert "--train_views=4 must be from 1 to 3, the views of an object in Triples's layout" in err
    assert "--brightness is an option of --dataset=Triples, not of CVPR18" in err
