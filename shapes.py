"""Procedural objects in the manner of ShapeNet: parametric airplanes, cars, chairs, tables, sofas, ...

`make_object` draws one object of a class. An object is a union of closed parts, each built by one of
the pure primitives `box`, `revolve`, `rod`, `ellipsoid`, `wing` and `extrude`; a class is a
generator of (role, part) pairs, and a role (body, panel, support, dark, glass) decides the colour.

Convention
----------
Right-handed, y up, the front of an object looks along +z. Its own left, seen from its driver's seat,
is +x. Triangles are counter-clockwise seen from outside. The classes work in units of their own
(metres for furniture, lengths of the vehicle for vehicles) on a floor at y = 0; `make_object`
centres and scales what they made.

A mesh is a pair (vertices (V, 3) float64, faces (F, 3) int64).
"""
import functools
import math

import numpy as np

LONGEST_SIDE = 0.70, 0.95  # of the bounding box, drawn uniformly: objects differ in size too


# ------------------------------------------------------------------------------------ primitives

@functools.lru_cache(maxsize=None)
def _loft_faces(rings, sides, pointed_start, pointed_end):
    """Faces of `loft`. The rings come first in its vertices, then the start, then the end point."""
    ring = np.arange(sides)
    after = (ring + 1) % sides
    base = sides * np.arange(rings - 1)[:, None]
    a, b = (base + ring).ravel(), (base + after).ravel()
    faces = [np.stack([a, b, b + sides], 1), np.stack([a, b + sides, a + sides], 1)]

    def cap(first, point):  # a fan around the point, or else around the ring's first vertex
        i, j = (ring, after) if point is not None else (ring[1:-1], after[1:-1])
        hub = np.full_like(i, first if point is None else point)
        return np.stack([hub, first + i, first + j], 1)

    count = rings * sides
    faces.append(cap(0, count if pointed_start else None)[:, ::-1])
    faces.append(cap(count - sides, count + pointed_start if pointed_end else None))
    faces = np.concatenate(faces)
    faces.flags.writeable = False  # the cache hands the same array to every caller
    return faces


def loft(rings, start=None, end=None):
    """Closed mesh through a row of convex rings.

    Parameters
    ----------
    rings : (R, N, 3) float, R >= 1, each ring counter-clockwise around the direction of advance
    start, end : (3,) float, optional. Points in which the mesh ends; without one it ends flat.
    """
    rings = np.asarray(rings, float)
    points = [p for p in (start, end) if p is not None]
    vertices = np.concatenate([rings.reshape(-1, 3), *np.reshape(points, (-1, 1, 3))])
    return vertices, _loft_faces(*rings.shape[:2], start is not None, end is not None)


def box(x, y, z, top=None):
    """Box over the intervals x, y, z; `top` = (x, z) gives the upper rectangle intervals of its own.

    Instead of an interval, x and z may be a number: the width of an interval about 0.
    """
    def rectangle(height, x, z):
        (x0, x1), (z0, z1) = (s if isinstance(s, tuple) else _about(0, s) for s in (x, z))
        return [(x1, height, z1), (x1, height, z0), (x0, height, z0), (x0, height, z1)]
    return loft([rectangle(y[0], x, z), rectangle(y[1], *(top or (x, z)))])


def revolve(start, end, profile, sides=10):
    """Solid of revolution around the axis from `start` to `end`, both (3,).

    `profile` (P, 2) lists (position along the axis, 0 to 1; radius), positions rising. A radius of
    0 at either end makes a point there. Four sides around an axis of the frame are parallel to the
    other two; the radius then is half a diagonal.
    """
    start, axis = np.asarray(start, float), np.subtract(end, start)
    w = axis / math.sqrt(axis @ axis)
    u = _cross((0, 0, 1) if abs(w[1]) > 0.7 else (0, 1, 0), w)
    u /= math.sqrt(u @ u)
    angle = (np.arange(sides) + 0.5) * (2 * math.pi / sides)
    circle = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * _cross(w, u)
    position, radius = np.transpose(profile)
    centers = start + position[:, None] * axis
    first, last = int(radius[0] == 0), len(radius) - int(radius[-1] == 0)
    rings = centers[first:last, None] + radius[first:last, None, None] * circle
    return loft(rings, centers[0] if first else None, centers[-1] if last < len(radius) else None)


def rod(start, end, radius, end_radius=None, sides=8):
    """Cylinder, or frustum of a cone with an `end_radius`, between two points."""
    return revolve(start, end, ((0, radius), (1, radius if end_radius is None else end_radius)), sides)


def ellipsoid(center, radii, rings=6, sides=10):
    """Ellipsoid with its poles along y; `rings` is the number of bands between them."""
    latitude = np.linspace(0, math.pi, rings + 1)
    profile = np.stack([(1 - np.cos(latitude)) / 2, np.sin(latitude)], 1)
    profile[[0, -1], 1] = 0
    vertices, faces = revolve((0, -1, 0), (0, 1, 0), profile, sides)
    return vertices * radii + center, faces


def wing(root, tip, root_chord, tip_chord, thickness, tip_thickness=None):
    """Swept, tapered wing from leading edge point to leading edge point, chords along -z.

    Its thickness is across the span and z: a fin is a wing whose tip is above its root.
    """
    root, tip = np.asarray(root, float), np.asarray(tip, float)
    forward = np.array((0.0, 0.0, 1.0))
    up = _cross(forward, (tip - root) * (1, 1, 0))
    up /= math.sqrt(up @ up)
    chordwise = np.array((0.25, 0.0, 0.0, 0.25, 0.75, 1.0, 1.0, 0.75))[:, None]
    across = np.array((0.5, 0.2, -0.2, -0.5, -0.4, -0.2, 0.2, 0.4))[:, None]
    return loft([p - chord * chordwise * forward + thick * across * up for p, chord, thick in (
        (root, root_chord, thickness), (tip, tip_chord, tip_thickness or thickness))])


def extrude(profile, half_widths):
    """Simple polygon `profile` (N, 2) of (z, y), convex or not, drawn out to both sides in x.

    `half_widths` (N,) or a number: how far in x each corner is drawn out.
    """
    profile = np.asarray(profile, float)
    half_widths = np.broadcast_to(np.asarray(half_widths, float), len(profile))
    z, y = profile.T
    if z @ np.roll(y, -1) < y @ np.roll(z, -1):  # clockwise in (z, y)
        z, y, half_widths = z[::-1], y[::-1], half_widths[::-1]
    n = len(z)
    right = np.stack([half_widths, y, z], 1)
    i, j = np.arange(n), np.roll(np.arange(n), -1)
    cap = _triangulate(list(zip(z.tolist(), y.tolist())))
    walls = np.stack([i, j, i + n], 1), np.stack([j, j + n, i + n], 1)
    return np.concatenate([right, right * (-1, 1, 1)]), np.concatenate([cap[:, ::-1], cap + n, *walls])


def _triangulate(points):
    """Ear clipping: faces (N - 2, 3) of a simple, counter-clockwise polygon of N (x, y) points."""
    def turn(a, b, c):
        (ax, ay), (bx, by), (cx, cy) = points[a], points[b], points[c]
        return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    left, faces = list(range(len(points))), []
    while len(left) > 3:
        for k in range(len(left)):
            a, b, c = left[k - 1], left[k], left[(k + 1) % len(left)]
            if turn(a, b, c) > 0 and not any(
                    turn(a, b, p) >= 0 and turn(b, c, p) >= 0 and turn(c, a, p) >= 0
                    for p in left if p not in (a, b, c)):
                faces.append((a, b, c))
                del left[k]
                break
        else:
            raise ValueError("profile is not a simple polygon: no ear is left to cut")
    return np.array(faces + [tuple(left)])


def mirror(mesh):
    """The mesh on the other side of the plane x = 0, facing outwards again."""
    vertices, faces = mesh
    return vertices * (-1, 1, 1), faces[:, ::-1]


def lean(mesh, slope, floor=0.0, z=0.0):
    """The mesh moved by `z` and sheared backwards, along -z, by `slope` per height above `floor`."""
    vertices = mesh[0].copy()
    vertices[:, 2] += z - slope * (vertices[:, 1] - floor)
    return vertices, mesh[1]


def _cross(a, b):
    (ax, ay, az), (bx, by, bz) = a, b  # np.cross costs ten times as much on one vector
    return np.array((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))


# ----------------------------------------------------------------------------- words of a builder

def _pick(rng, **weights):
    """One of the names, drawn by weight."""
    bounds = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]


def _draw(rng, ranges):
    """One uniform number for each named range, as a dict."""
    return {name: rng.uniform(low, high) for name, (low, high) in ranges.items()}


def _about(center, width):
    """The interval of a width about a centre."""
    return center - width / 2, center + width / 2


def _both(role, mesh):
    """A part and its twin on the other side."""
    yield role, mesh
    yield role, mirror(mesh)


def _disc(width, depth, low, high):
    """Elliptic plate between two heights."""
    vertices, faces = rod((0, low, 0), (0, high, 0), .5, sides=20)
    return vertices * (width, 1, depth), faces


def _four_legs(x, z, top, radius, splay=0.0, foot=1.0, sides=4):
    """Legs from (+-x, top, +-z) to the floor, their feet further out by `splay`."""
    for depth, out in ((z, splay), (-z, -splay)):
        yield from _both("support", rod((x + splay, 0, depth + out), (x, top, depth),
                                        foot * radius, radius, sides))


# --------------------------------------------------------------------------------------- airplane

# Ranges in lengths of the fuselage. `span` is that of one half; `at` is where the wing's leading edge
# meets the fuselage, `mount` at which height, in radii; `sweep` how far behind that its tip lies;
# `taper` the tip's chord by the root's; `dihedral` the rise per span.
_PLANES = {
    "airliner": dict(
        radius=(.048, .066), nose=(.09, .15), tail=(.25, .36), span=(.40, .56), chord=(.16, .22),
        taper=(.22, .40), sweep=(.14, .32), at=(.12, .22), mount=(-.6, -.3), dihedral=(.02, .07)),
    "business": dict(
        radius=(.050, .066), nose=(.14, .22), tail=(.25, .36), span=(.36, .52), chord=(.15, .21),
        taper=(.25, .45), sweep=(.08, .24), at=(.02, .12), mount=(-.7, -.4), dihedral=(.02, .06)),
    "commuter": dict(
        radius=(.052, .068), nose=(.10, .16), tail=(.30, .40), span=(.46, .60), chord=(.12, .16),
        taper=(.45, .75), sweep=(.01, .05), at=(.12, .20), mount=(.7, .9), dihedral=(.00, .03)),
    "light": dict(
        radius=(.058, .080), nose=(.10, .20), tail=(.45, .60), span=(.50, .68), chord=(.14, .19),
        taper=(.55, 1.0), sweep=(.00, .04), at=(.18, .26), mount=(-.7, .9), dihedral=(.01, .08)),
    "fighter": dict(
        radius=(.045, .062), nose=(.26, .36), tail=(.10, .25), span=(.26, .40), chord=(.30, .46),
        taper=(.10, .35), sweep=(.22, .36), at=(.00, .10), mount=(-.3, .3), dihedral=(-.02, .02)),
}


def _propeller(rng, center, radius, blades):
    """Spinner and blades in front of `center`."""
    x, y, z = center
    yield "dark", revolve((x, y, z - .01), (x, y, z + .05), ((0, .022), (.5, .018), (1, 0)), 8)
    turn = rng.uniform(0, math.pi)
    for k in range(blades):
        angle = turn + 2 * math.pi * k / blades
        tip = (x + radius * math.cos(angle), y + radius * math.sin(angle), z + .025)
        yield "dark", wing((x, y, z + .025), tip, .026, .022, .026)


def _airplane(rng):
    u = rng.uniform
    kind = _pick(rng, airliner=4, business=2, commuter=1.5, light=2, fighter=2)
    p = _draw(rng, _PLANES[kind])
    r, span, chord, tip_chord = p["radius"], p["span"], p["chord"], p["chord"] * p["taper"]

    nose, tail = p["nose"], p["tail"]
    vertices, faces = revolve((0, 0, -.5), (0, 0, .5), (
        (0, (.75 if kind == "fighter" else .25) * r), (tail / 2, .72 * r), (tail, r), (1 - nose, r),
        (1 - .55 * nose, .82 * r), (1 - .15 * nose, .42 * r), (1, 0)), 12)
    # airliners rotate at take-off, so the underside of their tail rises; fighters are flat
    if kind == "fighter":
        vertices[:, 0] *= u(1.2, 1.7)
    else:
        vertices[:, 1] += u(.3, .7) * r * np.clip(1 - (vertices[:, 2] + .5) / tail, 0, 1)
    wide = vertices[:, 0].max()
    yield "body", (vertices, faces)

    # the wing: one half and its twin, both starting inside the fuselage
    y = p["mount"] * r
    biplane = kind == "light" and rng.random() < .2
    if kind == "light":  # on the shoulders or under the belly, never through the cockpit
        y = .85 * r if y > 0 and not biplane else -.75 * r
    root = np.array((0, y, p["at"]))
    tip = np.array((span, y + span * p["dihedral"], p["at"] - p["sweep"]))
    thick = .034 * max(1, 2 * span)  # what is longer shrinks more in `make_object`
    yield from _both("panel", wing(root, tip, chord, tip_chord, thick, .75 * thick))
    if kind == "airliner" and rng.random() < .5:
        foot, end = tip - (.008, 0, .2 * tip_chord), tip + (.02, .05, -.7 * tip_chord)
        yield from _both("panel", wing(foot, end, .75 * tip_chord, .4 * tip_chord, .024))
    if biplane:
        gap = np.array((0, u(.15, .19) - y, u(0, .03)))
        yield from _both("panel", wing(root + gap, tip + gap, chord, tip_chord, .8 * thick))
        for where in (.08, .75):  # struts, the inner ones through the side of the fuselage
            foot = root + where * (tip - root) - (0, 0, .4 * chord)
            yield from _both("support", rod(foot, foot + gap, .014, sides=4))

    # the tail
    fin_root, fin_height = u(.12, .18), u(.12, .19)
    fin_sweep = u(.02, .06) if kind == "light" else u(.08, .15)
    fin_base = np.array((0, .2 * r, -.5 + fin_root + .01))
    fin_tip = fin_base + (0, fin_height + .8 * r, -fin_sweep)
    if kind == "fighter" and rng.random() < .5:
        foot, end = fin_base + (.6 * wide, 0, .02), fin_tip + (.6 * wide + u(0, .06), -.02, .02)
        yield from _both("panel", wing(foot, end, fin_root, .5 * fin_root, .026))
    else:
        yield "panel", wing(fin_base, fin_tip, fin_root, u(.4, .65) * fin_root, .028)
    high_tail = rng.random() < dict(business=.9, commuter=.6, airliner=.1).get(kind, 0)
    base = fin_tip - (0, .01, 0) if high_tail else np.array((0, .3 * r, -.5 + fin_root))
    end = base + (u(.14, .19) + (.5 * wide if kind == "fighter" else 0), u(0, .03), -u(.3, .9) * fin_sweep)
    yield from _both("panel", wing(base, end, u(.09, .12), u(.05, .08), .026))

    # engines
    def nacelle(x, y, z, size, length):
        return revolve((x, y, z - length / 2), (x, y, z + length / 2),
                       ((0, .6 * size), (.4, size), (1, .9 * size)))

    if kind in ("airliner", "commuter"):
        four = kind == "airliner" and rng.random() < .35
        size, length = u(.024, .030) if four or kind == "commuter" else u(.028, .038), u(.11, .16)
        for where in (u(.28, .34), u(.55, .62)) if four else (u(.28, .38),):
            x, y, z = root + where * (tip - root) - (0, size if kind == "airliner" else 0, 0)
            yield from _both("support", nacelle(x, y, z, size, length))
            front = z + length / 2
            if kind == "commuter":
                for role, mesh in _propeller(rng, (x, y, front), u(.075, .1), 4):
                    yield from _both(role, mesh)
            else:
                yield from _both("dark", rod((x, y, front - .03), (x, y, front + .003), .7 * size))
    elif kind == "business":
        size, length, z = u(.024, .034), u(.12, .16), u(-.33, -.27)
        yield from _both("support", nacelle(r + .8 * size, .4 * r, z, size, length))
        yield "support", box(2 * r + 1.2 * size, _about(.4 * r, .022), _about(z, .5 * length))
        if rng.random() < .25:  # a third engine, at the root of the fin
            yield "support", rod((0, 1.0 * r, -.47), (0, 1.1 * r, -.28), .8 * size, size)
    elif kind == "light":
        yield from _propeller(rng, (0, 0, .47), u(.09, .13), int(rng.integers(2, 5)))
        if biplane or rng.random() < .6:  # a fixed undercarriage
            x, y, z = u(.09, .13), -r - u(.05, .08), p["at"] - .02
            yield from _both("support", rod((.4 * r, -.6 * r, z), (x, y, z), .013, sides=4))
            yield from _both("dark", rod((x - .013, y, z), (x + .013, y, z), .03, sides=10))
    else:
        for x in (-.4 * wide, .4 * wide) if rng.random() < .5 else (0,):
            yield "dark", rod((x, 0, -.53), (x, 0, -.4), .6 * r, .75 * r)
        y, lip = _about(-.1 * r, 1.2 * r), u(.08, .18)  # the air intakes
        yield from _both("body", box((.5 * wide, 1.15 * wide), y, (-.25, lip), ((.5 * wide, wide), (-.25, .1))))

    # glass: a canopy, or windows as one strip that reaches through the fuselage
    if kind == "fighter":
        yield "glass", ellipsoid((0, .75 * r, p["at"] + .22), (.5 * r, .75 * r, u(.09, .13)))
    elif kind == "light":
        # the cockpit is above a low wing and behind its edge, but below a high one and before it
        seat, z = (.75, -.04) if y < 0 else (.45, .01)
        yield "glass", ellipsoid((0, seat * r, p["at"] + z), (.75 * r, .7 * r, u(.08, .11)))
    else:
        yield "glass", box(2.02 * r, _about(.2 * r, .016), (-.5 + tail, .5 - 1.2 * nose))
        yield "glass", box(1.3 * r, _about(.5 * r, .5 * r), _about(.5 - .55 * nose, .3 * nose))


# -------------------------------------------------------------------------------------------- car

# Ranges in lengths of the car. The cabin stands between z = `tail` and z = `cowl` on the shoulder, at
# `belt` of the height; its roof is shorter by `screen` in front and by `rear` behind.
_CARS = {
    "sedan": dict(
        height=(.29, .34), width=(.38, .44), wheel=(.066, .078), belt=(.58, .64),
        nose=(.70, .90), cowl=(.15, .23), screen=(.12, .18), tail=(-.38, -.30), rear=(.08, .15)),
    "hatchback": dict(
        height=(.36, .43), width=(.43, .50), wheel=(.075, .090), belt=(.56, .62),
        nose=(.70, .90), cowl=(.18, .28), screen=(.14, .22), tail=(-.49, -.45), rear=(.05, .13)),
    "suv": dict(
        height=(.38, .45), width=(.40, .46), wheel=(.085, .100), belt=(.60, .66),
        nose=(.80, .97), cowl=(.14, .24), screen=(.06, .13), tail=(-.49, -.47), rear=(.02, .07)),
    "van": dict(
        height=(.40, .48), width=(.36, .42), wheel=(.062, .076), belt=(.50, .58),
        nose=(.70, .85), cowl=(.34, .44), screen=(.10, .18), tail=(-.49, -.48), rear=(.00, .03)),
    "pickup": dict(
        height=(.32, .38), width=(.36, .41), wheel=(.075, .090), belt=(.58, .64),
        nose=(.85, .97), cowl=(.16, .24), screen=(.07, .12), tail=(-.12, -.02), rear=(.01, .04)),
    "sports": dict(
        height=(.23, .28), width=(.41, .48), wheel=(.058, .070), belt=(.62, .70),
        nose=(.60, .85), cowl=(.04, .14), screen=(.13, .20), tail=(-.42, -.32), rear=(.12, .22)),
    "bus": dict(
        height=(.28, .36), width=(.23, .28), wheel=(.045, .055), belt=(.42, .50),
        nose=(.95, .99), cowl=(.47, .49), screen=(.01, .03), tail=(-.495, -.485), rear=(.00, .01)),
}


def _car(rng):
    u = rng.uniform
    kind = _pick(rng, sedan=3, hatchback=2, suv=2, van=1.5, pickup=1.5, sports=1.5, bus=1)
    p = _draw(rng, _CARS[kind])
    height, width, cowl, tail = p["height"], p["width"], p["cowl"], p["tail"]
    belt = p["belt"] * height
    wheel = min(p["wheel"], .45 * belt)
    floor = wheel * (u(.9, 1.1) if kind in ("suv", "pickup") else u(.6, .8))
    nose = max(floor + (belt - floor) * p["nose"], 2 * wheel + .012)  # the wheels stay under the bonnet

    front = [(cowl, belt), (.46, nose), (.5, floor + .6 * (nose - floor)), (.48, floor)]
    if kind == "pickup":  # an open bed behind the cab: a low floor, two sides and a tailgate
        deck = floor + .35 * (belt - floor)
        back = [(-.5, floor), (-.5, deck), (tail - .01, deck), (tail - .01, belt)]
        yield from _both("body", box((width / 2 - .035, width / 2), (floor, .97 * belt), (-.5, tail)))
        yield "body", box(.96 * width, (floor, .97 * belt), (-.5, -.47))
    else:
        trunk = belt if tail < -.44 else belt * u(.92, 1)
        back = [(-.48, floor), (-.5, floor + .5 * (belt - floor)), (-.485, trunk), (tail, belt)]
    narrow = .97 if kind == "bus" else .9
    yield "body", extrude(back + front, width / 2 * np.array(
        [1 if kind == "pickup" else narrow] * 2 + [.97, 1, 1, narrow, narrow, narrow]))

    # The cabin is cut into slices by height: s = 0 is the shoulder, 1 the roof. Windows and pillars are
    # slices as well, a little wider than the cabin; pillars and panels only reach over an interval of z.
    foot = .48 * width
    roof = foot * (.97 if kind == "bus" else u(.88, .95) if kind == "van" else u(.76, .88))
    roof_back, roof_front = tail + p["rear"], cowl - p["screen"]

    def cabin(low, high, grow=0.0, z=None):
        def rectangle(s):
            return (2 * (foot + s * (roof - foot) + grow),
                    z or (tail + s * p["rear"] - grow, cowl - s * p["screen"] + grow))
        x, z_low = rectangle(low)
        return box(x, [belt - .01 + s * (height - belt + .01) for s in (low, high)], z_low, rectangle(high))

    yield "body", cabin(0, 1)
    yield "glass", cabin(.12, .82, .006)
    if kind == "van" and rng.random() < .5:  # a delivery van has no windows behind its doors
        yield "body", cabin(.1, .84, .010, (tail - .01, roof_front - .2))
    else:
        pillars = dict(bus=6, van=3, suv=3, sedan=2, hatchback=2).get(kind, 1)
        for z in np.linspace(roof_back, roof_front - .02, pillars + 1)[:-1]:
            yield "body", cabin(.08, .86, .009, _about(z + .02, .024))

    # wheels: tyre and hub; in the bed of a pickup, a box over each
    side, front, back = width / 2, .5 - u(.16, .21), -.5 + u(.17, .24)
    for z in (front, back):
        yield from _both("dark", rod((side - .05, wheel, z), (side + .008, wheel, z), wheel, sides=14))
        yield from _both("support", rod((side - .02, wheel, z), (side + .014, wheel, z), .55 * wheel))
    if kind == "pickup":
        y = deck - .01, 2 * wheel + .01
        yield from _both("body", box((side - .065, side - .02), y, _about(back, 2.2 * wheel)))

    # lamps in front and behind, grille, bumpers
    lamp, tail_lamp = floor + .68 * (nose - floor), floor + .6 * (belt - floor)
    yield from _both("panel", box((.27 * width, .43 * width), _about(lamp, .03), (.44, .5)))
    yield from _both("panel", box((.33 * width, .44 * width), _about(tail_lamp, .035), (-.505, -.46)))
    yield "dark", box(.4 * width, _about(lamp - .01, .035), (.44, .502))
    for z in (.49, -.49):
        yield "dark", box(.92 * width, _about(floor + .025, .035), _about(z, .04))

    if kind == "sports" and rng.random() < .5:
        y = belt + u(.03, .06)
        yield from _both("panel", box((.25 * width, .3 * width), (belt * .85, y), (-.47, -.44)))
        yield "panel", box(.9 * width, (y - .01, y + .015), (-.5, -.42))
    elif kind in ("suv", "hatchback") and rng.random() < .35:
        yield from _both("support", box((.6 * roof, .6 * roof + .02), (height - .01, height + .02),
                                        (roof_back + .06, roof_front - .05)))
    elif kind == "suv" and rng.random() < .4:  # the spare wheel on the back
        yield "dark", rod((0, .6 * belt + .04, -.47), (0, .6 * belt + .04, -.54), .9 * wheel, sides=12)


# ------------------------------------------------------------------------------------------ chair

def _chair_back(rng, kind, width, low, high, thick):
    """Backrest between two heights, upright, its middle in the plane z = 0."""
    u = rng.uniform
    half = width / 2
    if kind == "solid":
        yield "body", box(width, (low, high), thick, (u(.7, 1) * width, thick))
    elif kind == "oval":
        yield "body", ellipsoid((0, (low + high) / 2, 0), (half, .54 * (high - low), .6 * thick))
    else:
        post = u(.035, .05)
        yield from _both("support", box((half - post, half), (low, high), thick))
        rail = u(.05, .11)
        if kind == "upright":
            yield "body", box(width, (high - rail, high), .9 * thick)
            count = int(rng.integers(2, 6))
            for x in np.linspace(-half + post, half - post, count + 2)[1:-1]:
                yield "panel", box(_about(x, .03), (low, high - rail / 2), .7 * thick)
        elif kind == "ladder":
            count = int(rng.integers(2, 5))
            for y in np.linspace(high - rail / 2, low + .1, count):
                yield "body", box(width - .02, _about(y, min(rail, .07)), .8 * thick)
        else:
            yield "body", box(width - .02, (low + u(.25, .5) * (high - low), high), .8 * thick)


def _chair(rng):
    u = rng.uniform
    legs = _pick(rng, straight=3, splayed=2, pedestal=1.7, sled=1.2, box=1)
    stool = legs != "box" and rng.random() < .12
    width, depth, thick = u(.40, .60), u(.40, .54), u(.035, .07)
    seat, back = u(.40, .50), u(.30, .65)
    if stool:
        width, depth, seat, back = .85 * width, .85 * depth, u(.62, .78), u(.14, .26)
    elif legs == "box":
        width, thick = width + .1, u(.10, .16)
    under, top = seat - thick, seat + back
    slope = u(.02, .3)

    # the seat
    cushion = u(.03, .06) if rng.random() < .35 else 0
    round_seat = legs not in ("box", "sled") and rng.random() < .2
    if round_seat:
        yield "body", _disc(1.06 * width, 1.06 * depth, under, seat)
        if cushion:
            yield "panel", _disc(.95 * width, .95 * depth, seat - .01, seat + cushion)
    else:
        front = u(.5, .56) * width  # many seats widen towards the front
        z = depth / 2
        yield "body", extrude([(-z, under), (z, under), (z, seat), (-z, seat)],
                              [width / 2, front, front, width / 2])
        if cushion:
            yield "panel", box(.9 * width, (seat - .01, seat + cushion), _about(.01, .88 * depth),
                               (.8 * width, _about(.01, .78 * depth)))

    # the back, from inside the seat upwards; a round seat is narrow there
    hinge = -.38 * depth if round_seat else -depth / 2 + .025
    back_width = u(.62, .68) * width if round_seat else u(.84, 1) * width
    kind = "solid" if legs == "box" else _pick(rng, solid=3, upright=2, ladder=2, frame=1.5, oval=.7)
    back_thick = .1 if legs == "box" else u(.035, .06)
    for role, mesh in _chair_back(rng, kind, back_width, seat - thick / 2, top, back_thick):
        yield role, lean(mesh, slope, seat, hinge)

    # the legs
    x, z, radius = width / 2 - .035, depth / 2 - .035, u(.025, .036)
    if round_seat:
        x, z = .78 * x, .78 * z
    if legs in ("straight", "splayed"):
        splay = u(.03, .09) if legs == "splayed" else 0
        sides = 4 if rng.random() < .6 else 8
        if splay:
            x, z = .85 * x, .85 * z
        yield from _four_legs(x, z, seat - thick / 2, radius, splay, u(.7, 1), sides)
        if stool or rng.random() < .35:  # stretchers, where splayed legs stand further `out`
            y = u(.25, .45) * seat
            out = splay * (1 - y / seat)
            x, z = x + out, z + out
            for end in (z, -z):
                yield "support", box(2 * x, _about(y, .028), _about(end, .028))
            yield from _both("support", box(_about(x, .028), _about(y + .03, .028), 2 * z))
    elif legs == "pedestal":
        yield "support", rod((0, .03, 0), (0, under + .01, 0), u(.025, .045), sides=8)
        reach = u(.44, .56) * max(width, depth)
        if rng.random() < .65:
            spokes = int(rng.integers(4, 6))
            for k in range(spokes):
                angle = math.pi / 2 + 2 * math.pi * k / spokes
                end = reach * np.array((math.cos(angle), 0, math.sin(angle)))
                yield "support", rod((0, .085, 0), end + (0, .05, 0), .03, .02, 4)
                yield "dark", rod(end + (-.02, .03, 0), end + (.02, .03, 0), .03)
        else:
            yield "support", rod((0, 0, 0), (0, .04, 0), .85 * reach, .7 * reach, 16)
    elif legs == "sled":
        bar = 1.8 * radius
        yield from _both("support", box(_about(x, bar), (0, bar), 2 * z + bar))
        posts = (z,) if rng.random() < .35 else (z, -z)  # a cantilever chair has none behind
        for end in posts:
            yield from _both("support", box(_about(x, bar), (0, seat - thick / 2), _about(end, bar)))
        if len(posts) == 1:
            yield "support", box(2 * x, (0, bar), _about(-z, bar))
    else:
        gap = u(0, .1) if rng.random() < .6 else 0
        yield "panel", box(.96 * width, (gap, under + .01), .96 * depth)
        yield from _four_legs(.4 * width, .4 * depth, .15, .03)

    # arms
    if not stool and not round_seat and rng.random() < (.9 if legs == "box" else .4):
        rest = seat + u(.16, .25)
        if legs == "box" or rng.random() < .25:
            inner, low = width / 2 - .03, .1 if legs == "box" else under
            yield from _both("panel", box((inner, inner + u(.06, .12)), (low, rest), depth - .02))
        else:
            bar, rear = u(.035, .055), hinge - slope * (rest - seat)  # where they meet the leaning back
            x, y, z = _about(width / 2, bar), (rest - .035, rest), depth / 2
            yield from _both("support", box(x, y, (rear - .01, z - u(0, .12))))
            yield from _both("support", box((back_width / 2 - .04, x[1]), y, _about(rear, .04)))
            yield from _both("support", box(_about(width / 2, .035), (under, rest - .01), _about(z - .15, .035)))


# ------------------------------------------------------------------------------------------ table

def _drawers(x, low, high, back, front, count):
    """A block with drawers and their handles in its front."""
    yield "panel", box(x, (low, high), (back, front))
    tall = (high - low) / count
    middle, width = sum(x) / 2, x[1] - x[0]
    for k in range(count):
        y = low + (k + .5) * tall
        yield "body", box(_about(middle, .86 * width), _about(y, .8 * tall), (front - .03, front + .008))
        yield "dark", box(_about(middle, .3 * width), _about(y, .022), (front - .02, front + .025))


def _table(rng):
    u = rng.uniform
    kind = _pick(rng, legs=3, round=2.5, desk=2, trestle=1.3, panels=1, cross=1)
    low = kind not in ("desk", "cross") and rng.random() < .3  # a coffee table
    if kind == "round":
        depth = u(.8, 1.3)
        length = depth * (u(1.2, 1.6) if rng.random() < .3 else 1)
    else:
        length = u(.8, 1.3) if low else u(.9, 1.9)
        depth = u(.5, .8) * (1 if low else 1.15)
    height = u(.32, .48) if low else u(.66, .80)
    # what is long shrinks more in `make_object`: boards and legs grow with it, so as not to vanish
    under = height - u(.036, .060) * length
    radius = u(.024, .040) * max(length, .9)

    if kind == "round":
        yield "body", _disc(length, depth, under, height)
        foot = _pick(rng, disc=1, star=1, legs=1, drum=.4)
        if foot == "legs":
            yield from _four_legs(.32 * length, .32 * depth, under + .01, radius, u(-.03, .06), u(.6, 1), 8)
        elif foot == "drum":
            yield "support", rod((0, 0, 0), (0, under + .01, 0), u(.2, .34) * depth, u(.15, .34) * depth, 14)
        else:
            post = u(.04, .08)
            turned = (.03, post), (.4, u(.7, 1.6) * post), (.9, post), (1, 2.2 * post)
            yield "support", revolve((0, 0, 0), (0, under + .01, 0), turned)
            if foot == "disc":
                yield "support", rod((0, 0, 0), (0, .05, 0), u(.25, .36) * depth, u(.18, .25) * depth, 16)
            else:
                spokes, reach = int(rng.integers(3, 5)), u(.30, .38) * depth
                for k in range(spokes):
                    angle = math.pi / 4 + 2 * math.pi * k / spokes
                    end = (reach * math.cos(angle), .03, reach * math.sin(angle))
                    yield "support", rod((0, .2, 0), end, .05, .03, 4)
        return

    x, z = length / 2, depth / 2
    yield "body", box(length, (under, height), depth)
    if kind == "legs":
        inset = u(.03, .12) if rng.random() < .7 else radius
        x, z = x - inset - radius, z - inset - radius
        if rng.random() < .6:
            yield "panel", box(2 * x, (under - u(.04, .10), under + .01), 2 * z)
        splay = u(0, .09) if rng.random() < .4 else 0
        sides = 4 if rng.random() < .6 else 8
        yield from _four_legs(x - splay, z - splay, under + .01, radius, splay, u(.6, 1), sides)
        if rng.random() < (.5 if low else .12):
            yield "panel", box(2 * x, _about(u(.25, .4) * under, .04), 2 * z)
    elif kind == "desk":
        # the user sits at +z; drawers on one side only tell left from right
        wide, front, count = u(.24, .36), z - u(.01, .04), int(rng.integers(2, 5))
        bottom = 0 if rng.random() < .5 else u(.1, .35)
        side = list(_drawers((x - .02 - wide, x - .02), bottom, under + .01, -z + .03, front, count))
        other = _pick(rng, legs=2, panel=2, drawers=1)
        flip = rng.random() < .5
        feet = [x - .05] * bool(bottom) + [-x + .05] * (other == "legs")  # legs carry a block that hangs
        side += [("support", rod((a, 0, b), (a, under + .01, b), radius, sides=4))
                 for a in feet for b in (z - .06, -z + .06)]
        if other == "panel":
            side += [("panel", box((-x + .02, -x + .07), (0, under + .01), depth - .06))]
        yield from ((role, mirror(mesh)) if flip else (role, mesh) for role, mesh in side)
        if other == "drawers":
            yield from ((role, mesh if flip else mirror(mesh)) for role, mesh in side)
        if rng.random() < .6:  # a modesty panel behind
            yield "panel", box(length - .06, (u(.2, .5) * under, under + .01), (-z + .03, -z + .065))
    elif kind == "trestle":
        at = u(.6, .85) * x
        yield from _both("support", box(_about(at, 2 * radius), (.05, under + .01), u(.12, .3) * depth))
        yield from _both("support", box(_about(at, 2.4 * radius), (0, .06), u(.7, .95) * depth))
        yield from _both("support", box(_about(at, 2.2 * radius), (under - .05, under + .01), .7 * depth))
        yield "support", box(2 * at, _about(u(.2, .5) * height, .08), .045)
    elif kind == "panels":
        board = u(.034, .07) * length
        inset = u(0, .12) * length if rng.random() < .5 else 0
        yield from _both("support", box((x - inset - board, x - inset), (0, under + .01), u(.8, 1) * depth))
        shelf = u(.3, .6) * height
        if rng.random() < .5:
            yield "panel", box(length - 2 * inset - .04, _about(shelf, .04), .75 * depth)
    else:
        at, foot = u(.7, .9) * x, u(.8, .95) * z
        for front in (foot, -foot):
            yield from _both("support", rod((at, .03, front), (at, under + .01, -front), .9 * radius, sides=4))
        yield "support", box(2 * at, _about(under / 2, .05), .05)


# ------------------------------------------------------------------------------------------- sofa

def _sofa(rng):
    u = rng.uniform
    seats = int(rng.choice((1, 2, 3, 4), p=(.08, .36, .42, .14)))
    corner = seats > 1 and rng.random() < .3
    seat_width, depth = u(.55, .72), u(.80, 1.0)
    seat, back, thick = u(.36, .46), u(.28, .50), u(.16, .26)
    base = u(.05, .16) if rng.random() < .7 else 0  # the gap under it
    x, z = seats * seat_width / 2, depth / 2
    cushion = u(.12, .18)
    deck = seat - cushion

    arms = _pick(rng, box=3, roll=2, low=1.5, none=1.2)
    if seats == 1 and arms == "none":
        arms = "box"
    arm = dict(box=u(.12, .24), roll=u(.16, .22), low=u(.20, .30), none=0)[arms]
    rest = seat + dict(box=u(.14, .24), roll=u(.16, .22), low=u(.06, .10), none=0)[arms]

    yield "body", box(2 * x + .02, (base, deck + .01), depth)
    tilt, hinge = u(0, .25), -z + thick
    yield "body", lean(box(2 * x + .02, (base, seat + back), (-z, hinge)), tilt * .6, base)
    cushions = seats if rng.random() < .75 else 1
    pillows = rng.random() < .75
    gap = .012
    edges = np.linspace(-x, x, cushions + 1)
    for a, b in zip(edges[:-1] + gap, edges[1:] - gap):
        yield "panel", box((a, b), (deck, seat), (hinge - .02, z + .02), ((a + .01, b - .01), (hinge - .02, z)))
        if pillows:
            y = seat - .01, seat + u(.75, 1.05) * back
            pillow = box((a, b), y, (-.03, .13), ((a + .02, b - .02), (-.03, .08)))
            yield "panel", lean(pillow, tilt, seat, hinge)

    def armrest(front):
        if arms == "roll":
            radius, middle = arm * .62, x + .45 * arm
            y = rest - radius
            yield "body", box((x - .03, x + .8 * arm), (base, y), (-z, front))
            yield "body", rod((middle, y, -z), (middle, y, front + .02), radius, sides=12)
        elif arms != "none":
            yield "body", box((x - .03, x + arm), (base, rest), (-z, front))

    # The left end (+x) and the right one are built alike and mirrored. A corner sofa has one long end,
    # its chaise, which stretches forward: left or right, so that a mirror image is another object.
    right = [(role, mirror(mesh)) for role, mesh in armrest(z)]
    if corner:
        reach, wide = u(.45, .9), u(.95, 1.1) * seat_width
        left = [("body", box((x - wide, x + .01), (base, deck + .01), (z - .05, z + reach))),
                ("panel", box((x - wide + gap, x - gap), (deck, seat), (z + .025, z + reach + .02)))]
        if arms != "none" or rng.random() < .5:
            if rng.random() < .5:  # a second back along the chaise
                left.append(("body", box((x - .03, x + thick), (base, seat + back), (-z, z + reach))))
            else:
                left += armrest(z)
    else:
        reach, left = 0, list(armrest(z))
    ends = left + right
    if base:  # feet
        sides, edge = 4 if rng.random() < .5 else 8, x - .05
        feet = [(a, b) for a in (-edge, edge) for b in (-z + .07, z - .08)]
        if corner:
            feet += [(x - .08, z + reach - .08), (x - wide + .08, z + reach - .08)]
        ends += [("support", rod((a, 0, b), (a, base + .03, b), .035, .045, sides)) for a, b in feet]
    flip = rng.random() < .5
    yield from ((role, mirror(mesh)) if flip else (role, mesh) for role, mesh in ends)


# ----------------------------------------------------------------------------------- bench, lamp

def _bench(rng):
    u = rng.uniform
    length, depth, height = u(1.1, 1.8), u(.35, .5), u(.40, .48)
    x, z = length / 2, depth / 2
    slats = int(rng.integers(3, 6)) if rng.random() < .5 else 1
    pitch = depth / slats
    for k in range(slats):
        slat = _about(-z + (k + .5) * pitch, pitch - (.03 if slats > 1 else 0))
        yield "body", box(length, (height - .035 * length, height), slat)
    at = u(.7, .92) * x
    foot = _pick(rng, legs=2, panels=2, blocks=1)
    if foot == "legs":
        yield from _four_legs(at, z - .05, height - .01, u(.034, .046), u(0, .04))
        yield from _both("support", box(_about(at, .05), (height - .1, height - .03), depth - .04))
    else:
        wide = _about(at, .06 if foot == "panels" else .25)
        yield from _both("support", box(wide, (0, height - .03), .9 * depth))
    if rng.random() < .65:
        top, slope = height + u(.28, .45), u(.05, .3)
        rails = int(rng.integers(1, 4))
        pitch = (top - height - .08) / rails
        back = list(_both("support", box(_about(at, .06), (height - .05, top - .01), (-.03, .025))))
        back += [("body", box(length, (y - pitch + .03, y), (0, .04))) for y in top - pitch * np.arange(rails)]
        yield from ((role, lean(mesh, slope, height, -z + .03)) for role, mesh in back)
        if rng.random() < .5:
            rest = height + u(.16, .22)
            rear = -z - .02 - slope * (rest - height)
            yield from _both("support", box(_about(at, .06), (rest, rest + .04), (rear, z - .02)))
            yield from _both("support", box(_about(at, .05), (height - .04, rest + .01), _about(z - .06, .05)))


def _lamp(rng):
    u = rng.uniform
    kind = _pick(rng, floor=2, table=3, arm=1.5, pendant=1.5)
    low, top = u(.10, .22), u(.05, .16)
    shade = u(.14, .30)
    if kind in ("floor", "table"):
        height = u(1.1, 1.6) if kind == "floor" else u(.35, .6)
        foot = u(.10, .18)
        yield "support", rod((0, 0, 0), (0, .035, 0), foot, .85 * foot, 16)
        if kind == "floor":
            yield "support", rod((0, .02, 0), (0, height + .02, 0), u(.026, .040))
            low, top, shade = 1.4 * low, 1.4 * top, 1.3 * shade
        else:
            vase = (0, u(.04, .10)), (.25, u(.05, .13)), (.5, u(.03, .11)), (.75, u(.03, .06)), (1, .02)
            yield "body", revolve((0, .03, 0), (0, height + .02, 0), vase, 12)
        yield "glass", rod((0, height, 0), (0, height + shade, 0), max(low, top), top, 16)
    elif kind == "pendant":
        drop = u(.3, .8)
        yield "support", rod((0, drop + shade, 0), (0, drop + shade + .04, 0), .07, sides=12)
        yield "support", rod((0, shade - .02, 0), (0, drop + shade + .01, 0), .016, sides=6)
        if rng.random() < .4:
            yield "glass", ellipsoid((0, shade / 2, 0), (.9 * shade, shade / 2, .9 * shade), 8, 14)
        else:
            yield "glass", rod((0, 0, 0), (0, shade, 0), 1.4 * low + .05, .06, 16)
    else:  # a desk lamp: two arms in the plane z = 0 or turned towards the front, a hooded bulb
        elbow = np.array((u(-.22, -.08), u(.28, .4), 0))
        head = elbow + (u(.2, .36), u(.05, .2), u(0, .1))
        yield "support", rod((0, 0, 0), (0, .035, 0), u(.09, .13), sides=16)
        yield "support", rod((0, .02, 0), elbow, .016, sides=6)
        yield "support", rod(elbow, head, .016, sides=6)
        yield "dark", ellipsoid(elbow, (.024, .024, .024), 4, 6)
        rim = head + (u(.02, .08), -u(.1, .14), u(0, .06))
        yield "glass", rod(head + (-.03, .04, 0), rim, .03, u(.07, .10), 12)


# ---------------------------------------------------------------------------------------- objects

_BUILDERS = {
    "02691156": ("airplane", _airplane),
    "02828884": ("bench", _bench),
    "02958343": ("car", _car),
    "03001627": ("chair", _chair),
    "03636649": ("lamp", _lamp),
    "04256520": ("sofa", _sofa),
    "04379243": ("table", _table),
}
CLASSES = {class_id: name for class_id, (name, _) in _BUILDERS.items()}

# The one palette of palette='shared': a colour tells the role of a part and nothing else.
SHARED_PALETTE = {
    "body": (.80, .45, .30),
    "panel": (.85, .78, .60),
    "support": (.45, .50, .58),
    "dark": (.16, .16, .18),
    "glass": (.45, .70, .85),
}

# Ranges of hue, saturation and value.
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
    """A colour for each role from the materials of a class, no two of them alike."""
    colors = {}
    for role, default in _DEFAULT_FINISH.items():
        materials = _FINISHES[name].get(role, default)
        while role not in colors:
            material = _MATERIALS[materials[int(rng.integers(len(materials)))]]
            color = _rgb(*(rng.uniform(low, high) for low, high in material))
            if all(np.abs(color - other).max() > .12 for other in colors.values()):
                colors[role] = color
    return colors


def make_object(class_id, rng, palette="own"):
    """One random object of a class, deterministic in the state of `rng`.

    Parameters
    ----------
    class_id : str, a key of `CLASSES`
    rng : numpy.random.Generator
    palette : 'own' (every object has colours of its own) or 'shared' (`SHARED_PALETTE` for all, so
        that colour cannot identify an object). The shape, and what is drawn from `rng`, are the same.

    Returns
    -------
    vertices : (V, 3) float64; the centre of the bounding box is the origin, its longest side lies
        in `LONGEST_SIDE`. Axes as in the module's convention.
    faces : (F, 3) int64, counter-clockwise seen from outside. The parts overlap: the mesh is a union
        of closed parts, not one surface.
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
