"""Procedural objects similar to those of ShapeNet: parametric airplanes, cars, chairs, tables, sofas, ...

`make_object` makes one random object of a class. An object is a union of closed parts, each built by a
function in `primitives`. A class is a generator of (role, part) pairs in `vehicles` or `furniture`; the
role (body, panel, support, dark, glass) determines the colour of the part.

Convention
----------
Right-handed, y up; the front of an object points to +z. Left, for its driver, is +x. Triangles are
counter-clockwise seen from outside. Each class has its own unit (metres for furniture, the length of
the vehicle for vehicles) and a floor at y = 0; `make_object` centres and scales the objects.

A mesh is a pair (vertices (V, 3) float64, faces (F, 3) int64).
"""
import numpy as np

from . import furniture, vehicles

LONGEST_SIDE = 0.70, 0.95  # range of the longest side of the bounding box, drawn uniformly

_BUILDERS = {
    "02691156": ("airplane", vehicles.airplane),
    "02828884": ("bench", furniture.bench),
    "02958343": ("car", vehicles.car),
    "03001627": ("chair", furniture.chair),
    "03636649": ("lamp", furniture.lamp),
    "04256520": ("sofa", furniture.sofa),
    "04379243": ("table", furniture.table),
}
CLASSES = {class_id: name for class_id, (name, _) in _BUILDERS.items()}

# The palette of palette='shared': a colour shows only the role of a part.
SHARED_PALETTE = {
    "body": (.80, .45, .30),
    "panel": (.85, .78, .60),
    "support": (.45, .50, .58),
    "dark": (.16, .16, .18),
    "glass": (.45, .70, .85),
}

# {material: ranges of hue, saturation and value}
_MATERIALS = {
    "paint": ((0, 1), (.45, .95), (.45, .95)),
    "plain": ((0, 1), (.00, .08), (.25, .98)),
    "white": ((0, 1), (.00, .06), (.85, 1.0)),
    "fabric": ((0, 1), (.15, .65), (.30, .85)),
    "leather": ((.02, .09), (.40, .75), (.20, .60)),
    "wood": ((.05, .11), (.35, .70), (.30, .85)),
    "metal": ((.55, .65), (.00, .12), (.40, .80)),
    "black": ((0, 1), (.00, .20), (.06, .20)),
    "window": ((.50, .62), (.20, .50), (.20, .60)),
    "lampshade": ((.05, .16), (.10, .45), (.80, 1.0)),
}
_FINISHES = {
    "airplane": dict(body=("white", "paint", "plain"), panel=("metal", "paint", "plain"), glass=("window",)),
    "car": dict(body=("paint", "paint", "plain"), panel=("lampshade",), glass=("window",)),
    "chair": dict(body=("wood", "fabric", "paint", "leather"), panel=("fabric", "wood"), support=("wood", "metal")),
    "table": dict(body=("wood", "wood", "white", "plain"), panel=("wood", "paint")),
    "sofa": dict(body=("fabric", "leather", "paint"), panel=("fabric", "leather"), support=("wood", "metal")),
    "bench": dict(body=("wood", "wood", "paint"), support=("metal", "wood", "plain")),
    "lamp": dict(body=("paint", "white", "fabric"), glass=("lampshade", "paint")),
}
_DEFAULT_FINISH = dict(body=("wood",), panel=("wood",), support=("metal", "wood"), dark=("black",),
                       glass=("window",))


def _rgb(hue, saturation, value):
    """HSV in [0, 1] to RGB in [0, 1], (3,)."""
    k = (np.array((5, 3, 1)) + 6 * hue) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _own_palette(name, rng):
    """A random colour for each role from the materials of a class; all colours differ."""
    colors = {}
    for role, materials in {**_DEFAULT_FINISH, **_FINISHES[name]}.items():
        while role not in colors:
            material = _MATERIALS[materials[int(rng.integers(len(materials)))]]
            color = _rgb(*(rng.uniform(low, high) for low, high in material))
            if all(np.abs(color - other).max() > .12 for other in colors.values()):
                colors[role] = color
    return colors


def make_object(class_id, rng, palette="own"):
    """Make one random object of a class. It depends only on the arguments and the state of `rng`.

    Parameters
    ----------
    class_id : str, a key of `CLASSES`
    rng : numpy.random.Generator
    palette : 'own' (every object has its own colours) or 'shared' (all have `SHARED_PALETTE`, so that
        colour cannot identify an object). The shape and the draws from `rng` are the same for both.

    Returns
    -------
    vertices : (V, 3) float64. The bounding box is centred at the origin; its longest side lies in
        `LONGEST_SIDE`. The axes follow the module's convention.
    faces : (F, 3) int64, counter-clockwise seen from outside. The mesh is a union of closed parts
        that overlap, not one surface.
    colors : (F, 3) float64 in [0, 1], RGB
    """
    if class_id not in CLASSES:
        raise ValueError(f"class_id must be one of {', '.join(CLASSES)}, got {class_id!r}")
    if palette not in ("own", "shared"):
        raise ValueError(f"palette must be 'own' or 'shared', got {palette!r}")
    name, builder = _BUILDERS[class_id]
    roles, meshes = zip(*builder(rng))
    own = _own_palette(name, rng)
    colors = own if palette == "own" else SHARED_PALETTE

    first = np.cumsum([0] + [len(v) for v, _ in meshes])
    vertices = np.concatenate([v for v, _ in meshes])
    faces = np.concatenate([f + i for (_, f), i in zip(meshes, first)])
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) * (rng.uniform(*LONGEST_SIDE) / (high - low).max())
    return vertices, faces, np.repeat([colors[r] for r in roles], [len(f) for _, f in meshes], axis=0)
