"""Draws docs/synthetic.png; docs/compare.png and docs/turntable.gif are copies of what train.sh leaves."""
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import synthetic  # noqa: E402
from datasets import CVPR18  # noqa: E402
from visualization import on_paper, sheet  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    synthetic.make_synthetic(folder, n_train=8, n_val=1, n_test=1)
    rows = []
    for class_id in synthetic.MAIN_CLASSES:
        data = CVPR18(folder, [class_id], "train", folder + "/cache", say=lambda line: None)
        images = data.gather([24 * i + (3 + 5 * i) % 24 for i in range(8)]).images
        rows.append([on_paper(image, 96) for image in images])
    sheet(rows).save(os.path.join(HERE, "synthetic.png"), optimize=True)
