#!/usr/bin/env bash
# The demo, or the published runs.
#
#   bash train.sh                      trains AE, featGAN and --preset=best on built-in data, evaluates
#                                      them, and draws pictures in results/demo
#   DATASET=CVPR18 DATA_DIR=/data/cvpr18 CLASS_IDS="02691156 02958343" bash train.sh
#                                      trains the published settings, one class after another, in CKPT_DIR
#                                      (default runs/CVPR18) and resumes interrupted runs; DATASET can also
#                                      be NIPS17, Pascal3D or R2N2
#
# Other options are passed to every training command: bash train.sh --amp --n_iters 5000
set -euo pipefail
if [ -n "${DATASET:-}" ]; then  # before anything is installed
  refuse() { echo "error: $*" >&2; exit 2; }
  shapenet="02691156 02828884 02933112 02958343 03001627 03211117 03636649 03691459 04090263 04256520 04379243 04401088 04530566"
  case "$DATASET" in
    CVPR18|NIPS17|R2N2) every=$shapenet ;;
    Pascal3D) every="02691156 02958343 03001627" ;;
    *) refuse "DATASET=$DATASET is not known; expected CVPR18, NIPS17, Pascal3D or R2N2" ;;
  esac
  [ -n "${DATA_DIR:-}" ] || refuse "DATASET=$DATASET needs DATA_DIR, the folder of its files"
  [ -d "$DATA_DIR" ] || refuse "DATA_DIR=$DATA_DIR is not a folder"
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
gan() { "$PYTHON" "$root/3D-GAN.py" "$@"; }

if [ -n "${DATASET:-}" ]; then
  out=${CKPT_DIR:-$root/runs/$DATASET}
  classes=${CLASS_IDS:-$every}
  for class_id in $classes; do
    gan --mode=train --dataset="$DATASET" --data_dir="$DATA_DIR" --class_ids "$class_id" \
      --ckpt_dir="$out/ckpt3D_$class_id" --resume "$@"
  done
  gan --mode=evaluation --ckpt_dir="$out" --class_ids $classes
  exit
fi

# The demo: small enough for minutes on two cores. AE is the same command with --lambda_adv=0.
class_id=02958343
runs=$root/runs/demo
results=$root/results/demo
settings="--class_ids $class_id --enc_width 16 --batch_size 32 --lr 1e-3 --n_iters 1500 --ckpt_step 250 --sample_step 500"
plain="$settings --lambda_Gprior 0 --standardize_code --confusion ce --lr_D 1e-3"
gan --mode=train --ckpt_dir="$runs/AE" $plain --lambda_adv 0 --resume "$@"
gan --mode=train --ckpt_dir="$runs/featGAN" $plain --lambda_adv 0.5 --resume "$@"
gan --mode=train --ckpt_dir="$runs/best" $settings --preset best --near_from 300 --near_every 150 --resume "$@"
for run in AE featGAN best; do gan --mode=evaluation --ckpt_dir="$runs/$run"; done
gan --mode=compare --runs "$runs/AE" "$runs/featGAN" "$runs/best" --sample_dir="$results"
gan --mode=reconstruct --ckpt_dir="$runs/best" --load_im="$results/inputs" --sample_dir="$results/reconstruct"
echo "look at $results/compare.png, $results/table.md and, in a browser, $results/reconstruct/reconstructions.html"
