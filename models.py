"""The networks of all methods. B = batch, K = pose bins, V = template vertices, F = template faces.

Parameters have the names of the published program, so that its weights can be loaded.
"""
import numpy as np
import torch
from torch import nn


def _channels_last(module):
    """Store images in channels-last memory format, which makes convolutions a sixth faster on a CPU."""
    return module.to(memory_format=torch.channels_last)


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
        self.convBlocks = _channels_last(nn.Sequential(*layers))
        hidden = 16 * width
        self.FC = nn.Sequential(nn.Linear(before * (img_size >> depth) ** 2, hidden), nn.ReLU(),
                                nn.Linear(hidden, hidden), nn.ReLU())
        self.shapeLayer = nn.Linear(hidden, latent_dim)
        self.num_features = hidden

    def features(self, images):
        """(B, num_features), what the code is read from."""
        return self.FC(self.convBlocks(images).flatten(1))

    def code(self, features):
        return self.shapeLayer(features)

    def forward(self, images):
        return self.code(self.features(images))


RESNET_SIZE = 224  # image size in pixels for which the published program uses a ResNet


class ResNetEncoder(nn.Module):
    """RGB image (B, 3, S, S) in [0, 1] to shape code (B, 8 width): ResNet-18 (He et al. 2016) up to its
    global average pooling. Parameters have torchvision's names. The forward pass normalises the input
    as torchvision's weights expect. `width` (64) scales all channels.
    """

    def __init__(self, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for i in range(4):
            before = width << max(i - 1, 0)
            blocks = _BasicBlock(before, width << i, 1 if i == 0 else 2), _BasicBlock(width << i, width << i, 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        self.num_features = 8 * width * (RESNET_SIZE // 32) ** 2
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        # Not channels-last: the backward pass of torch 2.13 then crashes on a CPU (segmentation fault).

    def features(self, images):
        """(B, 8 width, S / 32, S / 32), what the code is the mean of."""
        x = torch.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x

    def code(self, features):
        return features.mean((2, 3))

    def forward(self, images):
        return self.code(self.features(images))

    def load_torchvision(self, state):
        """Load torchvision's `resnet18` state dict without its classifier `fc`. A ValueError names the first
        parameter that is missing, unknown or of another shape."""
        own = self.state_dict()
        given = {k: v for k, v in state.items() if not k.startswith("fc.")}
        counts = {k for k in own if k.endswith("num_batches_tracked")}  # older files lack them
        for key in sorted(set(own) - counts | set(given)):
            if key not in given or key not in own:
                raise ValueError(f"{key} is {'missing' if key in own else 'not a parameter of ResNet-18'}")
            value = given[key]
            if not isinstance(value, torch.Tensor) or value.shape != own[key].shape:
                got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"{key} must have shape {tuple(own[key].shape)}, got {got}")
        self.load_state_dict({**{k: own[k] for k in counts}, **given})


class _BasicBlock(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False),
                                            nn.BatchNorm2d(width))

    def forward(self, x):
        residual = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + residual)


def make_encoder(img_size, channels, latent_dim=512, width=64):
    """The encoder of the published program for images of size img_size."""
    if img_size == RESNET_SIZE:
        if channels != 3 or latent_dim != 8 * width:
            raise ValueError(f"a ResNet takes 3 channels and gives a code of {8 * width}, got {channels} and "
                             f"{latent_dim}")
        return ResNetEncoder(width)
    return Encoder(latent_dim, img_size, channels, width)


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


class SymmetricMeshDecoder(nn.Module):
    """Shape code (B, latent_dim) to vertices (B, V, 3) of shapes that are symmetric in the plane z = 0.

    The last layer gives the offsets (x, y) of the template's P vertices on the plane, then (x, y, z) of its
    Q vertices with z > 0: 2P + 3Q numbers, 979 for the icosphere of 642 vertices.
    """

    def __init__(self, template, latent_dim=512, tolerance=1e-5):
        """template : (V, 3) float, of unit radius, symmetric in z; ValueError otherwise."""
        super().__init__()
        template = template.float()
        plane = (template[:, 2].abs() <= tolerance).nonzero()[:, 0]
        beyond = (template[:, 2] > tolerance).nonzero()[:, 0]
        behind = (template[:, 2] < -tolerance).nonzero()[:, 0]
        mirrored = template[beyond] * template.new_tensor([1, 1, -1])
        distance = torch.cdist(mirrored, template[behind], compute_mode="donot_use_mm_for_euclid_dist")
        match = distance.argmin(1) if len(behind) else behind
        if len(behind) != len(beyond) or len(match.unique()) != len(match) or \
                (len(match) and float(distance.amin(1).max()) > 10 * tolerance):
            raise ValueError(f"the template must be symmetric in z; it has {len(beyond)} vertices with z > 0 and "
                             f"{len(behind)} with z < 0" + (", not all at mirrored places" if
                                                            len(behind) == len(beyond) else ""))
        self.fclayers = nn.Sequential(nn.Linear(latent_dim, 1024), nn.ReLU(),
                                      nn.Linear(1024, 2048), nn.ReLU())
        self.bias_layer = nn.Linear(2048, 2 * len(plane) + 3 * len(beyond))
        for name, value in (("template", template), ("plane", plane), ("beyond", beyond),
                            ("mirror", behind[match])):
            self.register_buffer(name, value, persistent=False)

    def forward(self, codes):
        numbers = self.bias_layer(self.fclayers(codes))
        on_plane, off_plane = numbers.split([2 * len(self.plane), 3 * len(self.beyond)], 1)
        off_plane = off_plane.view(len(codes), -1, 3)
        offsets = numbers.new_zeros(len(codes), len(self.template), 3)
        offsets[:, self.plane, :2] = on_plane.view(len(codes), -1, 2)
        offsets[:, self.beyond] = off_plane
        offsets[:, self.mirror] = torch.cat([off_plane[..., :2], -off_plane[..., 2:]], -1)
        return 0.5 * (self.template + offsets)


class Lattice:
    """The points of a mesh that have colours: its faces, or, of cubes of T^3 texels, the points at barycentric
    coordinates (i, j, k) / (T - 1) of its faces. Faces share those on their edges, so that colours do not jump there.

    Attributes
    ----------
    count : number of points, P; faces, or V + (T - 2) E + (T - 2) (T - 3) / 2 F.
    places : (P, 3) float64, where they are on the template.
    of_faces : (F, N) int64, the points of each face, N = T (T + 1) / 2.
    weights : (T^3, N) float32, what each point of a face adds to each texel of its cube. As in the renderer, texel
        (i, j, k) is the colour at barycentric coordinates (i, j, k) / (i + j + k), and (0, 0, 0) that of the centre;
        between points colours are linear.
    neighbours : (2, E') int64, pairs of points side by side: faces that share an edge, or ends of a lattice's edges.
    """

    def __init__(self, template, faces, size=1):
        """template : (V, 3). faces : (F, 3) integer. size : T."""
        corners, faces = np.asarray(template.cpu(), np.float64), np.asarray(faces.cpu(), np.int64)
        if size == 1:
            self.places = corners[faces].mean(1)
            of_faces = np.arange(len(faces))[:, None]
            weights, neighbours = np.ones((1, 1)), _sharing_edges(faces)
        else:
            steps = [(i, j, size - 1 - i - j) for i in range(size) for j in range(size - i)]
            of_faces, self.places = _merged(corners, faces, np.array(steps))
            weights, sides = _texel_weights(size, steps), _lattice_edges(steps)
            neighbours = np.unique(np.sort(of_faces[:, sides].reshape(-1, 2), 1), axis=0)
        self.count = len(self.places)
        self.of_faces, self.neighbours = torch.from_numpy(of_faces), torch.from_numpy(neighbours.T.copy())
        self.weights = torch.from_numpy(weights).float()

    def partners(self, axis, tolerance=1e-4):
        """(P,) int64, the point that is the mirror image of each in the plane where coordinate `axis` is 0; ValueError
        if the template is not symmetric in it."""
        from scipy.spatial import cKDTree
        mirrored = self.places * np.where(np.arange(3) == axis, -1, 1)
        distance, partner = cKDTree(self.places).query(mirrored)
        if distance.max() > tolerance or (partner[partner] != np.arange(self.count)).any():
            raise ValueError(f"the template is not symmetric in {'xyz'[axis]}")
        return torch.from_numpy(partner)


def _sharing_edges(faces):
    """(E', 2) pairs of faces with a common edge."""
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
    order = np.lexsort(sides.T)
    same = (sides[order][1:] == sides[order][:-1]).all(1)
    return np.stack([order[:-1][same] // 3, order[1:][same] // 3], 1)


def _merged(corners, faces, steps):
    """(of_faces (F, N), places (P, 3)) of points with whole barycentric coordinates `steps` (N, 3): one point for all
    faces that have it on an edge or a corner. It is known by its vertices and its weights, not by where it lies."""
    vertices = np.where(steps, faces[:, None], -1)  # (F, N, 3): a corner of no weight does not matter
    order = np.argsort(vertices, -1)
    vertices = np.take_along_axis(vertices, order, -1)
    weights = np.take_along_axis(np.broadcast_to(steps, vertices.shape), order, -1)
    keys, place = np.unique(np.concatenate([vertices, weights], -1).reshape(-1, 6), axis=0, return_inverse=True)
    places = (corners[keys[:, :3]] * keys[:, 3:, None]).sum(1) / steps[0].sum()
    return place.reshape(vertices.shape[:2]), places


def _texel_weights(size, steps):
    """(T^3, N): how a texel is interpolated in the small triangle of a face's points that it lies in. Where its
    coordinates, n times the barycentric ones, have the whole parts `base`, these fall short of n by 1 in a triangle
    that stands as the face does, by 2 in one upside down, and by 0 on a point."""
    n, number = size - 1, {step: i for i, step in enumerate(steps)}
    weights = np.zeros((size ** 3, len(steps)))
    for texel, place in enumerate(np.ndindex(size, size, size)):
        place = np.array(place if any(place) else (1, 1, 1))
        base, rest = np.divmod(n * place, place.sum())
        fraction, short = rest / place.sum(), n - base.sum()
        if short == 0:
            weights[texel, number[tuple(base)]] = 1
            continue
        for k in range(3):
            corner = base + np.eye(3, dtype=int)[k] if short == 1 else base + 1 - np.eye(3, dtype=int)[k]
            share = fraction[k] if short == 1 else 1 - fraction[k]
            if share > 0:
                weights[texel, number[tuple(corner)]] += share
    return weights


def _lattice_edges(steps):
    """(n, 2) pairs of points of one face that are a step apart."""
    return np.array([(a, b) for a, one in enumerate(steps) for b, other in enumerate(steps)
                     if a < b and max(abs(p - q) for p, q in zip(one, other)) == 1])


class TextureDecoder(nn.Module):
    """Colour code (B, d) to the colours (B, P, 3) in (0, 1) of the points of a `Lattice`: of faces, or of T^3 texels.

    The colours are those of the surface: what a picture shows is the colour times `light`. They begin as one colour
    everywhere, `begin`. Without a colour code of its own it reads the shape code; with one, a linear layer takes it
    from the encoder's features, past the shape code and past the adversary that frees that of the pose.

    Attributes, kept with the weights
    ---------------------------------
    light : (5,) ambient, directional, and the direction (3,) towards the light, in the renderer's frame; 1, 0, 0, 0, 0
        where the light of the pictures is not known: shading then is part of the colours.
    source : (P,) int64, the point whose colour each point takes: its own, or the one that it shares with its mirror
        image (Kanazawa et al. 2018, who predict one half of a symmetric texture).
    """

    GLANCE = 8  # pixels on a side of the picture that a code of its own also reads

    def __init__(self, template, faces, size=1, latent_dim=512, features=None, channels=4):
        """size : T, 1 for one colour a face. latent_dim : d. features : length of the encoder's features, for a code of
        its own; then channels : of the images."""
        super().__init__()
        self.lattice, self.size = Lattice(template, faces, size), size
        self.codeLayer = None if features is None else nn.Linear(features + channels * self.GLANCE ** 2, latent_dim)
        self.fclayers = nn.Sequential(nn.Linear(latent_dim, 512), nn.ReLU(), nn.Linear(512, 1024), nn.ReLU())
        self.colour_layer = nn.Linear(1024, 3 * self.lattice.count)
        nn.init.zeros_(self.colour_layer.weight)
        for layer in (self.codeLayer, *self.fclayers):
            if isinstance(layer, nn.Linear):  # torch's own weights are so small that a picture hardly counts at first
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        for name in ("of_faces", "weights", "neighbours"):
            self.register_buffer(name, getattr(self.lattice, name), persistent=False)
        self.register_buffer("light", torch.tensor([1.0, 0, 0, 0, 0]))
        self.register_buffer("source", torch.arange(self.lattice.count))

    def begin(self, colour, light=None, mirror=None):
        """Start with one colour, (3,) in [0, 1], of the surface. light : (5,), None if it is not known. mirror : axis
        across which the halves of the template share their colours; ValueError if it has no such halves."""
        with torch.no_grad():
            colour = torch.as_tensor(colour, dtype=torch.float32).clamp(0.02, 0.98)
            self.colour_layer.bias.copy_(torch.logit(colour).repeat(self.lattice.count))
            self.light.copy_(torch.tensor([1.0, 0, 0, 0, 0]) if light is None else torch.as_tensor(light))
            if mirror is not None:
                self.source.copy_(torch.minimum(self.source.cpu(), self.lattice.partners(mirror)))

    def code(self, images, codes, features):
        """The colour code (B, d): the shape codes, or one that is read from the encoder's features and from a glance at
        the images (B, C, S, S) themselves, whose colours the features of shapes need not keep."""
        if self.codeLayer is None:
            return codes
        glance = nn.functional.adaptive_avg_pool2d(images, self.GLANCE)
        return self.codeLayer(torch.cat([features.flatten(1), glance.flatten(1).to(features.dtype)], 1))

    def forward(self, codes):
        numbers = self.colour_layer(self.fclayers(codes))
        return torch.sigmoid(numbers).view(len(codes), -1, 3).index_select(1, self.source)

    def cubes(self, colours):
        """Texture cubes (B, F, T, T, T, 3), as the renderer takes them, of colours (B, P, 3)."""
        T = self.size
        if T == 1:
            return colours[:, :, None, None, None]
        of_faces = colours.index_select(1, self.of_faces.flatten()).unflatten(1, self.of_faces.shape)  # (B, F, N, 3)
        return (self.weights @ of_faces).unflatten(2, (T, T, T))


class PoseDiscriminator(nn.Module):
    """Shape code (B, latent_dim) to log-probabilities of the pose bins (B, K).

    `standardize` first subtracts the batch mean of each component and divides by its standard deviation:
    the Gaussian prior makes codes so small that the published discriminator hardly learns (docs/published.md).
    `gathered(codes)` returns the codes of all processes, if several share a batch. `replay` (N, B) keeps the codes and
    poses of the last N batches of B that `loss` was given; they are part of the state, so a resumed run has them too.
    """

    def __init__(self, num_poses, latent_dim=512, standardize=False, gathered=lambda codes: codes, replay=(0, 0)):
        super().__init__()
        self.hidden_layer0 = nn.Linear(latent_dim, 256)
        self.hidden_layer1 = nn.Linear(256, 128)
        self.digit_layer = nn.Linear(128, num_poses)
        self.standardize, self.gathered = standardize, gathered
        self.replays = replay[0] > 0
        if self.replays:
            self.register_buffer("replayed_codes", torch.zeros(*replay, latent_dim))
            self.register_buffer("replayed_poses", torch.zeros(replay, dtype=torch.int64))
            self.register_buffer("replayed", torch.zeros(replay[0]))  # 1 where a batch is kept

    def forward(self, codes):
        return self._told(self._standardized(codes))

    def loss(self, codes, poses):
        """Negative log-likelihood of the true pose bins (B,), averaged over this batch and the kept ones."""
        codes = self._standardized(codes)
        if not self.replays:
            return nn.functional.nll_loss(self._told(codes), poses)
        # Clone the kept batches: they change below, before the backward pass reads them.
        weights = torch.cat([self.replayed.new_ones(1), self.replayed])
        own = nn.functional.nll_loss(self._told(codes), poses)
        kept = self._told(self.replayed_codes.flatten(0, 1).clone())
        kept = nn.functional.nll_loss(kept, self.replayed_poses.flatten().clone(), reduction="none")
        means = torch.cat([own[None], kept.view(self.replayed_poses.shape).mean(1)])
        with torch.no_grad():
            for buffer, newest in ((self.replayed_codes, self.gathered(codes.detach())),
                                   (self.replayed_poses, self.gathered(poses)), (self.replayed, weights[0])):
                buffer.copy_(torch.cat([newest[None].to(buffer.dtype), buffer[:-1]]))
        return (weights * means).sum() / weights.sum()

    def _standardized(self, codes):
        if not self.standardize:
            return codes
        everyones = self.gathered(codes)
        return (codes - everyones.mean(0)) / (everyones.std(0, correction=0) + 1e-6)

    def _told(self, codes):
        x = torch.relu(self.hidden_layer0(codes))
        x = torch.relu(self.hidden_layer1(x))
        return torch.log_softmax(self.digit_layer(x), 1)


class ViewDiscriminator(nn.Module):
    """Silhouette (B, S, S) and view number (B,) to the logit (B,) of "seen from the view of the input image".

    View Prior Learning (Kato & Harada 2019). The input channels are the silhouette and K constant planes,
    the one-hot view. The sigmoid of the published network is in the loss. `width` (128) scales all channels.
    """

    def __init__(self, num_views, img_size=64, width=128):
        super().__init__()
        self.num_views = num_views
        layers, before = [], 1 + num_views
        for i in range(4):
            layers.append(nn.Conv2d(before, width << i, 4, stride=2, padding=1))
            if i:
                layers.append(nn.BatchNorm2d(width << i))
            layers.append(nn.LeakyReLU(0.2))
            before = width << i
        self.convBlocks = _channels_last(nn.Sequential(*layers))
        self.digit_layer = nn.Linear(before * (img_size // 16) ** 2, 1)

    def forward(self, silhouettes, views):
        planes = nn.functional.one_hot(views, self.num_views).to(silhouettes.dtype)
        planes = planes[:, :, None, None].expand(-1, -1, *silhouettes.shape[1:])
        features = self.convBlocks(torch.cat([silhouettes[:, None], planes], 1))
        return self.digit_layer(features.flatten(1))[:, 0]


def icosphere(subdivisions=3):
    """Unit icosphere: (vertices (V, 3) float32, faces (F, 3) int64), counterclockwise seen from outside.

    Each subdivision splits every face into four: 3 subdivisions give 642 vertices and 1280 faces.
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
