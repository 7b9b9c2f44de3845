"""The networks of the method. B = batch, K = pose bins, V = template vertices.

Parameter names are those of the published program, so that its weights load.
"""
import numpy as np
import torch
from torch import nn


class Encoder(nn.Module):
    """Image (B, C, S, S) to shape code (B, latent_dim).

    Convolutions 5x5, stride 2, with 64, 128, 256 channels (and 512 at 128 px), then two hidden layers
    of 1024. `width` (64) scales all of these.
    """

    def __init__(self, latent_dim=512, img_size=64, channels=4, width=64):
        super().__init__()
        depth = {64: 3, 128: 4}.get(img_size)
        if depth is None:
            raise ValueError(f"img_size must be 64 or 128, got {img_size}")
        layers, before = [], channels
        for i in range(depth):
            layers += [nn.Conv2d(before, width << i, 5, stride=2, padding=2), nn.ReLU()]
            before = width << i
        self.convBlocks = nn.Sequential(*layers)
        hidden = 16 * width
        self.FC = nn.Sequential(nn.Linear(before * (img_size >> depth) ** 2, hidden), nn.ReLU(),
                                nn.Linear(hidden, hidden), nn.ReLU())
        self.shapeLayer = nn.Linear(hidden, latent_dim)

    def forward(self, images):
        return self.shapeLayer(self.FC(self.convBlocks(images).flatten(1)))


class MeshDecoder(nn.Module):
    """Shape code (B, latent_dim) to vertices (B, V, 3): half of the template plus an offset."""

    def __init__(self, template, latent_dim=512):
        """template : (V, 3) float, of unit radius."""
        super().__init__()
        self.fclayers = nn.Sequential(nn.Linear(latent_dim, 1024), nn.ReLU(),
                                      nn.Linear(1024, 2048), nn.ReLU())
        self.bias_layer = nn.Linear(2048, 3 * len(template))
        self.register_buffer("template", template.float(), persistent=False)

    def forward(self, codes):
        offsets = self.bias_layer(self.fclayers(codes))
        return 0.5 * (self.template + offsets.view(len(codes), -1, 3))


class PoseDiscriminator(nn.Module):
    """Shape code (B, latent_dim) to log-probabilities of the pose bins (B, K).

    `standardize` takes each component's batch mean and deviation away first: the Gaussian prior
    shrinks the codes so much that the published discriminator hardly learns (README, settings).
    """

    def __init__(self, num_poses, latent_dim=512, standardize=False):
        super().__init__()
        self.hidden_layer0 = nn.Linear(latent_dim, 256)
        self.hidden_layer1 = nn.Linear(256, 128)
        self.digit_layer = nn.Linear(128, num_poses)
        self.standardize = standardize

    def forward(self, codes):
        if self.standardize:
            codes = (codes - codes.mean(0)) / (codes.std(0, correction=0) + 1e-6)
        x = torch.relu(self.hidden_layer0(codes))
        x = torch.relu(self.hidden_layer1(x))
        return torch.log_softmax(self.digit_layer(x), 1)


class ViewDiscriminator(nn.Module):
    """Silhouette (B, S, S) and view number (B,) to the logit (B,) of "seen from the input's view".

    View Prior Learning (Kato & Harada 2019): the view enters as K constant planes, one-hot, beside
    the silhouette. The published sigmoid is left to the loss.
    """

    def __init__(self, num_views, img_size=64):
        super().__init__()
        self.num_views = num_views
        layers, before = [], 1 + num_views
        for i, width in enumerate((128, 256, 512, 1024)):
            layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
            if i:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            before = width
        self.convBlocks = nn.Sequential(*layers)
        self.digit_layer = nn.Linear(before * (img_size // 16) ** 2, 1)

    def forward(self, silhouettes, views):
        planes = nn.functional.one_hot(views, self.num_views).to(silhouettes.dtype)
        planes = planes[:, :, None, None].expand(-1, -1, *silhouettes.shape[1:])
        features = self.convBlocks(torch.cat([silhouettes[:, None], planes], 1))
        return self.digit_layer(features.flatten(1))[:, 0]


def icosphere(subdivisions=3):
    """Unit icosphere: (vertices (V, 3) float32, faces (F, 3) int64), outward, right-handed.

    Each subdivision splits every face in four: 3 give 642 vertices and 1280 faces.
    """
    t = (1 + 5 ** 0.5) / 2
    vertices = np.array([[-1, t, 0], [1, t, 0], [-1, -t, 0], [1, -t, 0], [0, -1, t], [0, 1, t],
                         [0, -1, -t], [0, 1, -t], [t, 0, -1], [t, 0, 1], [-t, 0, -1], [-t, 0, 1]])
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    faces = np.array([[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4],
                      [11, 10, 2], [10, 7, 6], [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8],
                      [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1]])
    for _ in range(subdivisions):
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
        unique, place = np.unique(edges, axis=0, return_inverse=True)
        middle = vertices[unique].sum(1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        ab, bc, ca = (place.reshape(-1, 3) + len(vertices)).T
        a, b, c = faces.T
        faces = np.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], 1).reshape(-1, 3)
        vertices = np.concatenate([vertices, middle])
    return torch.from_numpy(vertices).float(), torch.from_numpy(faces)
