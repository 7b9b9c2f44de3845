"""Chairs, tables, sofas, benches and lamps, in metres: generators of (role, part)."""
import math

import numpy as np

from .primitives import about, box, ellipsoid, extrude, lean, revolve, rod
from .words import around, both, mirrored, pick


def _column(low, high, radius, end_radius=None, sides=8):
    """A rod along the y axis."""
    return rod((0, low, 0), (0, high, 0), radius, end_radius, sides)


def _disc(width, depth, low, high):
    """An elliptic plate between two heights."""
    vertices, faces = _column(low, high, .5, sides=20)
    return vertices * (width, 1, depth), faces


def _four_legs(x, z, top, radius, splay=0.0, foot=1.0, sides=4):
    """Legs from (+-x, top, +-z) to the floor; their feet are further out by `splay`."""
    for depth, out in ((z, splay), (-z, -splay)):
        yield from both("support", rod((x + splay, 0, depth + out), (x, top, depth),
                                       foot * radius, radius, sides))


def _chair_back(rng, kind, width, low, high, thick):
    """An upright backrest between two heights, centred in the plane z = 0."""
    u = rng.uniform
    half = width / 2
    if kind == "solid":
        yield "body", box(width, (low, high), thick, (u(.7, 1) * width, thick))
    elif kind == "oval":
        yield "body", ellipsoid((0, (low + high) / 2, 0), (half, .54 * (high - low), .6 * thick))
    else:
        post = u(.035, .05)
        yield from both("support", box((half - post, half), (low, high), thick))
        rail = u(.05, .11)
        if kind == "upright":
            yield "body", box(width, (high - rail, high), .9 * thick)
            count = int(rng.integers(2, 6))
            for x in np.linspace(-half + post, half - post, count + 2)[1:-1]:
                yield "panel", box(about(x, .03), (low, high - rail / 2), .7 * thick)
        elif kind == "ladder":
            count = int(rng.integers(2, 5))
            for y in np.linspace(high - rail / 2, low + .1, count):
                yield "body", box(width - .02, about(y, min(rail, .07)), .8 * thick)
        else:
            yield "body", box(width - .02, (low + u(.25, .5) * (high - low), high), .8 * thick)


def chair(rng):
    u = rng.uniform
    legs = pick(rng, straight=3, splayed=2, pedestal=1.7, sled=1.2, box=1)
    stool = legs != "box" and rng.random() < .12
    width, depth, thick = u(.40, .60), u(.40, .54), u(.035, .07)
    seat, back = u(.40, .50), u(.30, .65)
    if stool:
        width, depth, seat, back = .85 * width, .85 * depth, u(.62, .78), u(.14, .26)
    elif legs == "box":
        width, thick = width + .1, u(.10, .16)
    under, middle, top = seat - thick, seat - thick / 2, seat + back
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
            yield "panel", box(.9 * width, (seat - .01, seat + cushion), about(.01, .88 * depth),
                               (.8 * width, about(.01, .78 * depth)))

    # the back begins inside the seat; a round seat is narrow there
    hinge = -.38 * depth if round_seat else -depth / 2 + .025
    back_width = u(.62, .68) * width if round_seat else u(.84, 1) * width
    kind = "solid" if legs == "box" else pick(rng, solid=3, upright=2, ladder=2, frame=1.5, oval=.7)
    back_thick = .1 if legs == "box" else u(.035, .06)
    for role, mesh in _chair_back(rng, kind, back_width, middle, top, back_thick):
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
        yield from _four_legs(x, z, middle, radius, splay, u(.7, 1), sides)
        if stool or rng.random() < .35:  # stretchers; splayed legs are further `out` there
            y = u(.25, .45) * seat
            out = splay * (1 - y / seat)
            x, z = x + out, z + out
            for end in (z, -z):
                yield "support", box(2 * x, about(y, .028), about(end, .028))
            yield from both("support", box(about(x, .028), about(y + .03, .028), 2 * z))
    elif legs == "pedestal":
        yield "support", _column(.03, under + .01, u(.025, .045))
        reach = u(.44, .56) * max(width, depth)
        if rng.random() < .65:
            for a, b in around(reach, int(rng.integers(4, 6)), math.pi / 2):
                yield "support", rod((0, .085, 0), (a, .05, b), .03, .02, 4)
                yield "dark", rod((a - .02, .03, b), (a + .02, .03, b), .03)
        else:
            yield "support", _column(0, .04, .85 * reach, .7 * reach, 16)
    elif legs == "sled":
        bar = 1.8 * radius
        yield from both("support", box(about(x, bar), (0, bar), 2 * z + bar))
        posts = (z,) if rng.random() < .35 else (z, -z)  # a cantilever chair has no rear posts
        for end in posts:
            yield from both("support", box(about(x, bar), (0, middle), about(end, bar)))
        if len(posts) == 1:
            yield "support", box(2 * x, (0, bar), about(-z, bar))
    else:
        gap = u(0, .1) if rng.random() < .6 else 0
        yield "panel", box(.96 * width, (gap, under + .01), .96 * depth)
        yield from _four_legs(.4 * width, .4 * depth, .15, .03)

    # arms
    if not stool and not round_seat and rng.random() < (.9 if legs == "box" else .4):
        rest = seat + u(.16, .25)
        if legs == "box" or rng.random() < .25:
            inner, low = width / 2 - .03, .1 if legs == "box" else under
            yield from both("panel", box((inner, inner + u(.06, .12)), (low, rest), depth - .02))
        else:
            bar, rear = u(.035, .055), hinge - slope * (rest - seat)  # the arms meet the leaning back here
            x, y, z = about(width / 2, bar), (rest - .035, rest), depth / 2
            yield from both("support", box(x, y, (rear - .01, z - u(0, .12))))
            yield from both("support", box((back_width / 2 - .04, x[1]), y, about(rear, .04)))
            yield from both("support", box(about(width / 2, .035), (under, rest - .01), about(z - .15, .035)))


def _drawers(x, low, high, back, front, count):
    """A block of drawers with handles at its front."""
    yield "panel", box(x, (low, high), (back, front))
    tall = (high - low) / count
    middle, width = sum(x) / 2, x[1] - x[0]
    for k in range(count):
        y = low + (k + .5) * tall
        yield "body", box(about(middle, .86 * width), about(y, .8 * tall), (front - .03, front + .008))
        yield "dark", box(about(middle, .3 * width), about(y, .022), (front - .02, front + .025))


def table(rng):
    u = rng.uniform
    kind = pick(rng, legs=3, round=2.5, desk=2, trestle=1.3, panels=1, cross=1)
    low = kind not in ("desk", "cross") and rng.random() < .3  # a coffee table
    if kind == "round":
        depth = u(.8, 1.3)
        length = depth * (u(1.2, 1.6) if rng.random() < .3 else 1)
    else:
        length = u(.8, 1.3) if low else u(.9, 1.9)
        depth = u(.5, .8) * (1 if low else 1.15)
    height = u(.32, .48) if low else u(.66, .80)
    # `make_object` shrinks long tables more; so boards and legs are thicker for them
    under = height - u(.036, .060) * length
    radius = u(.024, .040) * max(length, .9)

    if kind == "round":
        yield "body", _disc(length, depth, under, height)
        foot = pick(rng, disc=1, star=1, legs=1, drum=.4)
        if foot == "legs":
            yield from _four_legs(.32 * length, .32 * depth, under + .01, radius, u(-.03, .06), u(.6, 1), 8)
        elif foot == "drum":
            yield "support", _column(0, under + .01, u(.2, .34) * depth, u(.15, .34) * depth, 14)
        else:
            post = u(.04, .08)
            turned = (.03, post), (.4, u(.7, 1.6) * post), (.9, post), (1, 2.2 * post)
            yield "support", revolve((0, 0, 0), (0, under + .01, 0), turned)
            if foot == "disc":
                yield "support", _column(0, .05, u(.25, .36) * depth, u(.18, .25) * depth, 16)
            else:
                spokes, reach = int(rng.integers(3, 5)), u(.30, .38) * depth
                for a, b in around(reach, spokes, math.pi / 4):
                    yield "support", rod((0, .2, 0), (a, .03, b), .05, .03, 4)
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
            yield "panel", box(2 * x, about(u(.25, .4) * under, .04), 2 * z)
    elif kind == "desk":
        # the user sits at +z; drawers on one side only distinguish left and right
        wide, front, count = u(.24, .36), z - u(.01, .04), int(rng.integers(2, 5))
        bottom = 0 if rng.random() < .5 else u(.1, .35)
        side = list(_drawers((x - .02 - wide, x - .02), bottom, under + .01, -z + .03, front, count))
        other = pick(rng, legs=2, panel=2, drawers=1)
        flip = rng.random() < .5
        feet = [x - .05] * bool(bottom) + [-x + .05] * (other == "legs")  # a hanging block needs legs
        side += [("support", rod((a, 0, b), (a, under + .01, b), radius, sides=4))
                 for a in feet for b in (z - .06, -z + .06)]
        if other == "panel":
            side.append(("panel", box((-x + .02, -x + .07), (0, under + .01), depth - .06)))
        yield from mirrored(side) if flip else side
        if other == "drawers":
            yield from side if flip else mirrored(side)
        if rng.random() < .6:  # a modesty panel behind
            yield "panel", box(length - .06, (u(.2, .5) * under, under + .01), (-z + .03, -z + .065))
    elif kind == "trestle":
        at = u(.6, .85) * x
        yield from both("support", box(about(at, 2 * radius), (.05, under + .01), u(.12, .3) * depth))
        yield from both("support", box(about(at, 2.4 * radius), (0, .06), u(.7, .95) * depth))
        yield from both("support", box(about(at, 2.2 * radius), (under - .05, under + .01), .7 * depth))
        yield "support", box(2 * at, about(u(.2, .5) * height, .08), .045)
    elif kind == "panels":
        board = u(.034, .07) * length
        inset = u(0, .12) * length if rng.random() < .5 else 0
        yield from both("support", box((x - inset - board, x - inset), (0, under + .01), u(.8, 1) * depth))
        shelf = u(.3, .6) * height
        if rng.random() < .5:
            yield "panel", box(length - 2 * inset - .04, about(shelf, .04), .75 * depth)
    else:
        at, foot = u(.7, .9) * x, u(.8, .95) * z
        for front in (foot, -foot):
            yield from both("support", rod((at, .03, front), (at, under + .01, -front), .9 * radius, sides=4))
        yield "support", box(2 * at, about(under / 2, .05), .05)


def sofa(rng):
    u = rng.uniform
    seats = int(rng.choice((1, 2, 3, 4), p=(.08, .36, .42, .14)))
    corner = seats > 1 and rng.random() < .3
    seat_width, depth = u(.55, .72), u(.80, 1.0)
    seat, back, thick = u(.36, .46), u(.28, .50), u(.16, .26)
    base = u(.05, .16) if rng.random() < .7 else 0  # the gap under it
    x, z = seats * seat_width / 2, depth / 2
    cushion = u(.12, .18)
    deck = seat - cushion

    arms = pick(rng, box=3, roll=2, low=1.5, none=1.2)
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

    armrest = []  # the left one
    if arms == "roll":
        radius, middle = arm * .62, x + .45 * arm
        y = rest - radius
        armrest = [("body", box((x - .03, x + .8 * arm), (base, y), (-z, z))),
                   ("body", rod((middle, y, -z), (middle, y, z + .02), radius, sides=12))]
    elif arms != "none":
        armrest = [("body", box((x - .03, x + arm), (base, rest), (-z, z)))]

    # The right end is the mirror image of the left one (+x). A corner sofa has one long end, the chaise, which
    # extends forward, on the left or on the right, so its mirror image is a different object.
    if corner:
        reach, wide = u(.45, .9), u(.95, 1.1) * seat_width
        left = [("body", box((x - wide, x + .01), (base, deck + .01), (z - .05, z + reach))),
                ("panel", box((x - wide + gap, x - gap), (deck, seat), (z + .025, z + reach + .02)))]
        if arms != "none" or rng.random() < .5:
            if rng.random() < .5:  # a second back along the chaise
                left.append(("body", box((x - .03, x + thick), (base, seat + back), (-z, z + reach))))
            else:
                left += armrest
    else:
        left = armrest
    ends = [*left, *mirrored(armrest)]
    if base:  # feet
        sides, edge = 4 if rng.random() < .5 else 8, x - .05
        feet = [(a, b) for a in (-edge, edge) for b in (-z + .07, z - .08)]
        if corner:
            feet += [(x - .08, z + reach - .08), (x - wide + .08, z + reach - .08)]
        ends += [("support", rod((a, 0, b), (a, base + .03, b), .035, .045, sides)) for a, b in feet]
    flip = rng.random() < .5
    yield from mirrored(ends) if flip else ends


def bench(rng):
    u = rng.uniform
    length, depth, height = u(1.1, 1.8), u(.35, .5), u(.40, .48)
    x, z = length / 2, depth / 2
    slats = int(rng.integers(3, 6)) if rng.random() < .5 else 1
    pitch = depth / slats
    for k in range(slats):
        slat = about(-z + (k + .5) * pitch, pitch - (.03 if slats > 1 else 0))
        yield "body", box(length, (height - .035 * length, height), slat)
    at = u(.7, .92) * x
    foot = pick(rng, legs=2, panels=2, blocks=1)
    if foot == "legs":
        yield from _four_legs(at, z - .05, height - .01, u(.034, .046), u(0, .04))
        yield from both("support", box(about(at, .05), (height - .1, height - .03), depth - .04))
    else:
        wide = about(at, .06 if foot == "panels" else .25)
        yield from both("support", box(wide, (0, height - .03), .9 * depth))
    if rng.random() < .65:
        top, slope = height + u(.28, .45), u(.05, .3)
        rails = int(rng.integers(1, 4))
        pitch = (top - height - .08) / rails
        back = list(both("support", box(about(at, .06), (height - .05, top - .01), (-.03, .025))))
        back += [("body", box(length, (y - pitch + .03, y), (0, .04))) for y in top - pitch * np.arange(rails)]
        yield from ((role, lean(mesh, slope, height, -z + .03)) for role, mesh in back)
        if rng.random() < .5:
            rest = height + u(.16, .22)
            rear = -z - .02 - slope * (rest - height)
            yield from both("support", box(about(at, .06), (rest, rest + .04), (rear, z - .02)))
            yield from both("support", box(about(at, .05), (height - .04, rest + .01), about(z - .06, .05)))


def lamp(rng):
    u = rng.uniform
    kind = pick(rng, floor=2, table=3, arm=1.5, pendant=1.5)
    low, top = u(.10, .22), u(.05, .16)
    shade = u(.14, .30)
    if kind in ("floor", "table"):
        height = u(1.1, 1.6) if kind == "floor" else u(.35, .6)
        foot = u(.10, .18)
        yield "support", _column(0, .035, foot, .85 * foot, 16)
        if kind == "floor":
            yield "support", _column(.02, height + .02, u(.026, .040))
            low, top, shade = 1.4 * low, 1.4 * top, 1.3 * shade
        else:
            vase = (0, u(.04, .10)), (.25, u(.05, .13)), (.5, u(.03, .11)), (.75, u(.03, .06)), (1, .02)
            yield "body", revolve((0, .03, 0), (0, height + .02, 0), vase, 12)
        yield "glass", _column(height, height + shade, max(low, top), top, 16)
    elif kind == "pendant":
        drop = u(.3, .8)
        yield "support", _column(drop + shade, drop + shade + .04, .07, sides=12)
        yield "support", _column(shade - .02, drop + shade + .01, .016, sides=6)
        if rng.random() < .4:
            yield "glass", ellipsoid((0, shade / 2, 0), (.9 * shade, shade / 2, .9 * shade), 8, 14)
        else:
            yield "glass", _column(0, shade, 1.4 * low + .05, .06, 16)
    else:  # a desk lamp: two arms in the plane z = 0 or turned towards the front, a hooded bulb
        elbow = np.array((u(-.22, -.08), u(.28, .4), 0))
        head = elbow + (u(.2, .36), u(.05, .2), u(0, .1))
        yield "support", _column(0, .035, u(.09, .13), sides=16)
        yield "support", rod((0, .02, 0), elbow, .016, sides=6)
        yield "support", rod(elbow, head, .016, sides=6)
        yield "dark", ellipsoid(elbow, (.024, .024, .024), 4, 6)
        rim = head + (u(.02, .08), -u(.1, .14), u(0, .06))
        yield "glass", rod(head + (-.03, .04, 0), rim, .03, u(.07, .10), 12)
