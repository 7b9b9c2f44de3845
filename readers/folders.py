"""What datasets with a folder for each object share once a split is open."""
import numpy as np
import torch

from .base import Batch, Dataset
from .points import points_of_names


class FolderDataset(Dataset):
    """A dataset whose images are in `_images`, an array (objects, views, C, S, S) for each class, at the `place` and
    `view` of `rows`, and whose objects have `names`."""

    def points(self, c):
        return points_of_names(self._place, self.class_ids[c], self.split, self.names[c])

    def read(self, indices, step=None, part=slice(None)):
        indices = np.asarray(indices)[part]
        rows = self.rows[indices]
        pixels = np.empty((len(rows), self.channels, self.img_size, self.img_size), np.uint8)
        for c in np.unique(rows["class_number"]):
            mine = rows["class_number"] == c
            pixels[mine] = self._images[c][rows["place"][mine], rows["view"][mine]]
        cameras = self._cameras[torch.from_numpy(indices)]
        objects = torch.from_numpy(self._first_object[rows["class_number"]] + rows["object"])
        return Batch(torch.from_numpy(pixels), None, cameras.float(), self.pose_bins(cameras), objects)
