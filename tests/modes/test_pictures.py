"""Pictures of meshes from the cameras of every dataset."""
import pytest
from datasets import DATASETS
from models import icosphere
from pictures import draw


@pytest.mark.parametrize("name", DATASETS)
def test_light_comes_from_above(name):
    """Also for cameras that do not mirror, where the normals of the outsides are reversed."""
    dataset = DATASETS[name]
    vertices, faces = icosphere(3)
    for camera in dataset.turntable(8)[:1]:
        picture = draw(dataset, 0.4 * vertices[None], faces, camera[None], 64, (0.8, 0.8, 0.8))[0].mean(0)
        shown = picture < 0.99
        rows = shown.any(1).nonzero()[:, 0]
        top, bottom = rows[0] + len(rows) // 5, rows[-1] - len(rows) // 5
        assert picture[top][shown[top]].mean() > picture[bottom][shown[bottom]].mean() + 0.05
