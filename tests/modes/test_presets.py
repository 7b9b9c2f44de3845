"""--preset: its values, and that options on the command line override them."""
import json

import pytest
from command import call, script

BEST = {"confusion": "ce", "standardize_code": True, "lr_D": 1e-3, "lambda_pressure": 1e-4, "lambda_front": 10.0,
        "lambda_flat": 1.0, "lambda_mirror": .5, "lambda_near": 1.0, "near_from": 1000, "lambda_Gprior": 1e-3,
        "clip_norm": 5.0}


def told(capsys, *arguments):
    capsys.readouterr()
    assert call("--mode=train", "--dry_run", *arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_the_default_is_the_published_run(capsys):
    options = told(capsys)
    assert options == told(capsys, "--preset=published") and options["preset"] == "published"
    assert {name: options[name] for name in BEST} == {
        "confusion": "log2", "standardize_code": False, "lr_D": None, "lambda_pressure": 0, "lambda_front": 0,
        "lambda_flat": 0, "lambda_mirror": 0, "lambda_near": 0, "near_from": 0, "lambda_Gprior": 1, "clip_norm": 0}


def test_best_differs_in_its_values_alone(capsys):
    published, best = told(capsys), told(capsys, "--preset=best")
    assert {k: v for k, v in best.items() if v != published[k]} == {**BEST, "preset": "best"}


@pytest.mark.parametrize("given", ["--lambda_near=0", "--lambda_Gprior=1", "--lr_D=0.01"])
def test_given_options_override_the_preset(capsys, given):
    name, value = given[2:].split("=")
    assert told(capsys, "--preset=best", given) == {**told(capsys, "--preset=best"), name: float(value)}


def test_what_it_switches_on_can_be_switched_off(capsys):
    off = told(capsys, "--preset=best", "--no-D_always", "--no-standardize_code")
    assert off == {**told(capsys, "--preset=best"), "D_always": False, "standardize_code": False}


def test_best_of_view_prior_learning_is_pressure():
    options = script().parse(["--mode=trainCVPR19", "--preset=best"])
    assert options.lambda_pressure == 1e-4 and options.lambda_near == 0


@pytest.mark.parametrize("arguments, says", [
    (("--mode=train", "--preset=best", "--confusion=log2"), "--preset=best excludes --confusion=log2"),
    (("--mode=train", "--preset=best", "--lambda_adv=0"), "--preset=best excludes --lambda_adv=0"),
    (("--mode=evaluation", "--preset=best"), "--preset is an option of --mode=train and trainCVPR19"),
    (("--mode=train", "--preset=worst"), "invalid choice"),
    (("--mode=train", "--lr_schedule=cosine", "--decay_every=3"), "--decay_every belongs to --lr_schedule=constant"),
    (("--mode=train", "--pairs=3"), "invalid choice")])
def test_what_a_preset_excludes_is_refused(refused, arguments, says):
    assert says in refused(*arguments, usage=True)
