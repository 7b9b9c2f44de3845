"""Procedural objects are closed, centred, deterministic and varied, and their silhouettes show their class."""
import neural_renderer as nr
import numpy as np
import pytest
import shapes
import torch
from scipy.optimize import linprog
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from shapes import primitives

ID = {name: class_id for class_id, name in shapes.CLASSES.items()}
MAIN = [ID[name] for name in ("airplane", "car", "chair", "table", "sofa")]
each_class = pytest.mark.parametrize("class_id", shapes.CLASSES, ids=shapes.CLASSES.values())


def objects(class_id, count, palette="own"):
    return [shapes.make_object(class_id, np.random.default_rng(seed), palette) for seed in range(count)]


def volume(vertices, faces):
    a, b, c = vertices[faces].swapaxes(0, 1)
    return (a * np.cross(b, c)).sum() / 6


def edges(faces):
    """Directed edges (3F, 2)."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def is_closed(faces):
    """Whether every edge is used once in each direction, that is, by two faces with the same orientation."""
    pairs = set(map(tuple, edges(faces).tolist()))
    return len(pairs) == 3 * len(faces) and all((b, a) in pairs for a, b in pairs)


def parts(vertices, faces):
    """The parts of an object: faces that edges connect."""
    i, j = edges(faces).T
    graph = coo_matrix((np.ones(len(i)), (i, j)), (len(vertices),) * 2)
    _, label = connected_components(graph, directed=False)
    return [(vertices, faces[label[faces[:, 0]] == k]) for k in range(label.max() + 1)]


L_PROFILE = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 3), (0, 3)]
CIRCLE = 10 * np.sin(2 * np.pi / 10) / 2  # area of the regular polygon with 10 corners
PRIMITIVES = {
    "box": (primitives.box((1, 2), (0, 3), (-1, 1)), 6),
    "box by widths": (primitives.box(1, (0, 3), 2), 6),
    "frustum": (primitives.box(2, (0, 3), 2, (1, 1)), 7),
    "cylinder": (primitives.rod((0, 0, 0), (0, 0, -2), 1, sides=10), 2 * CIRCLE),
    "slanted cone": (primitives.revolve((1, 2, 3), (3, 3, 5), [(0, 2), (1, 0)]), 4 * CIRCLE),
    "spindle": (primitives.revolve((0, 0, 0), (0, 6, 0), [(0, 0), (.5, 1), (1, 0)]), 2 * CIRCLE),
    "ellipsoid": (primitives.ellipsoid((5, 5, 5), (1, 2, 3), 40, 40), 8 * np.pi),
    "wing": (primitives.wing((0, 0, 0), (2, 1, -3), 1, .5, .1), None),
    "fin": (primitives.wing((0, 0, 0), (0, 2, -1), 1, .5, .1), None),
    "right wing": (primitives.wing((0, 0, 0), (-2, 0, 0), 1, .5, .1), None),
    "L": (primitives.extrude(L_PROFILE, .5), 4),
    "L, clockwise": (primitives.extrude(L_PROFILE[::-1], .5), 4),
    "L, uneven": (primitives.extrude(L_PROFILE, [1, 1, .5, 1, .5, 1]), None),
    "mirrored": (primitives.mirror(primitives.box((1, 2), (0, 3), (-1, 1))), 6),
    "leaning": (primitives.lean(primitives.box(1, (0, 3), 2), .7, 1, 5), 6),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_are_closed_and_face_outwards(name):
    (vertices, faces), expected = PRIMITIVES[name]
    assert is_closed(faces)
    assert np.array_equal(np.unique(faces), np.arange(len(vertices)))
    assert volume(vertices, faces) > 0
    if expected:
        # the only inexact one is the ellipsoid, whose 40 x 40 facets lie inside it
        assert volume(vertices, faces) == pytest.approx(expected, rel=.02 if name == "ellipsoid" else 1e-12)


def test_extrude_refuses_a_profile_without_area():
    with pytest.raises(ValueError, match="simple polygon"):
        primitives.extrude([(0, 0), (1, 0), (2, 0), (3, 0)], 1)


@each_class
def test_objects_are_unions_of_closed_outward_parts(class_id):
    for vertices, faces, _ in objects(class_id, 20):
        assert 30 <= len(faces) <= 1500
        assert is_closed(faces)
        assert all(volume(*part) > 0 for part in parts(vertices, faces))


def overlap(a, b):
    """Whether the convex hulls of two point sets (N, 3) meet."""
    if (a.min(0) > b.max(0)).any() or (b.min(0) > a.max(0)).any():
        return False
    system = np.zeros((5, len(a) + len(b)))
    system[:3] = np.concatenate([a, -b]).T
    system[3, :len(a)] = system[4, len(a):] = 1
    return linprog(np.zeros(system.shape[1]), A_eq=system, b_eq=[0, 0, 0, 1, 1]).success


@each_class
def test_nothing_floats(class_id):
    for vertices, faces, _ in objects(class_id, 5):
        points = [vertices[np.unique(f)] for _, f in parts(vertices, faces)]
        points = [p.mean(0) + .99 * (p - p.mean(0)) for p in points]  # touching is not enough
        reached, waiting = points[:1], points[1:]
        while reached:
            part = reached.pop()
            found = [overlap(part, other) for other in waiting]
            reached += [other for other, hit in zip(waiting, found) if hit]
            waiting = [other for other, hit in zip(waiting, found) if not hit]
        assert not waiting


@each_class
def test_objects_are_centred_and_inside_the_box(class_id):
    longest = []
    for vertices, faces, colors in objects(class_id, 40):
        assert vertices.dtype == np.float64 and faces.dtype == np.int64 and colors.dtype == np.float64
        low, high = vertices.min(0), vertices.max(0)
        assert np.abs(low + high).max() < 1e-12
        assert high.max() <= .475
        longest.append((high - low).max())
        assert colors.shape == faces.shape and colors.min() >= 0 and colors.max() <= 1
    assert min(longest) >= .70 - 1e-12 and max(longest) - min(longest) > .15


@each_class
def test_objects_are_deterministic_and_vary(class_id):
    first, second = objects(class_id, 40), objects(class_id, 40)
    assert all(np.array_equal(a, b) for one, other in zip(first, second) for a, b in zip(one, other))
    assert len({tuple(np.ptp(vertices, 0)) for vertices, _, _ in first}) == 40
    x, y, z = np.array([np.ptp(vertices, 0) for vertices, _, _ in first]).T
    for ratio in (y / x, y / z):
        assert ratio.std() > .1 * ratio.mean()


@each_class
def test_palettes(class_id):
    allowed = set(shapes.SHARED_PALETTE.values())
    for seed in range(10):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        vertices, faces, own = shapes.make_object(class_id, one)
        same_vertices, same_faces, shared = shapes.make_object(class_id, other, "shared")
        assert np.array_equal(vertices, same_vertices) and np.array_equal(faces, same_faces)
        assert one.random() == other.random()
        assert set(map(tuple, shared)) <= allowed
        # the two palettes colour the same roles: one colour of the one for each of the other
        pairs = np.unique(np.concatenate([own, shared], 1), axis=0)
        assert len(pairs) == len(np.unique(own, axis=0)) == len(np.unique(shared, axis=0)) >= 2


def test_fronts_look_along_plus_z():
    fins = []
    for vertices, _, _ in objects(ID["airplane"], 40):  # the fin is the highest of the middle
        middle = vertices[np.abs(vertices[:, 0]) < .05]
        fins.append(middle[middle[:, 1].argmax(), 2] < -.2)
    assert np.mean(fins) > .9  # not so with some biplanes
    for name in ("chair", "sofa"):
        for vertices, _, _ in objects(ID[name], 40):  # the back is at the back
            y, z = vertices[:, 1], vertices[:, 2]
            span = .15 * np.ptp(z)
            assert y[z < z.min() + span].max() >= y[z > z.max() - span].max() - 1e-9
    bonnets = []
    for vertices, _, _ in objects(ID["car"], 40):  # the roof is further from the bonnet's end
        y, z = vertices[:, 1], vertices[:, 2]
        roof = z[y > y.max() - .03]
        bonnets.append(z.max() - roof.max() > roof.min() - z.min())
    assert np.mean(bonnets) > .8  # not so with long beds or high spoilers


def test_some_objects_differ_from_their_mirror_image():
    for name, least in (("sofa", .1), ("table", .05)):
        lopsided = [abs(volume_center_x(v, f)) > .005 for v, f, _ in objects(ID[name], 60)]
        assert least < np.mean(lopsided) < .6


def volume_center_x(vertices, faces):
    a, b, c = vertices[faces].swapaxes(0, 1)
    weight = (a * np.cross(b, c)).sum(1)
    return (weight * (a + b + c)[:, 0]).sum() / 4 / weight.sum()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="class_id"):
        shapes.make_object("airplane", np.random.default_rng(0))
    with pytest.raises(ValueError, match="palette"):
        shapes.make_object(MAIN[0], np.random.default_rng(0), "mine")


def silhouettes(class_id, seeds):
    """(objects * 24 views, 64 * 64), the camera and the views of the CVPR18 dataset."""
    renderer = nr.Renderer(64, camera_mode="look_at", viewing_angle=15)
    renderer.eye = torch.stack([torch.as_tensor(nr.get_points_from_angles(2.732, 30, -15 * i))
                                for i in range(24)]).float()
    images = []
    for seed in seeds:
        vertices, faces, _ = shapes.make_object(class_id, np.random.default_rng(seed))
        vertices = torch.tensor(vertices * (1, 1, -1)).float()  # the camera mirrors it back
        images.append(renderer.render_silhouettes(vertices.expand(24, -1, -1).contiguous(),
                                                  torch.tensor(faces).int().expand(24, -1, -1).contiguous()))
    return torch.cat(images).flatten(1)


def test_silhouettes_tell_the_classes_apart():
    known = torch.cat([silhouettes(class_id, range(30)) for class_id in MAIN])
    for k, class_id in enumerate(MAIN):
        nearest = torch.cdist(silhouettes(class_id, range(1000, 1008)), known).argmin(1)
        accuracy = (nearest // (30 * 24) == k).float().mean()
        assert accuracy >= .9, f"{shapes.CLASSES[class_id]}: {accuracy:.3f}"
