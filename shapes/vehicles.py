"""Airplanes and cars, in lengths of the vehicle: generators of (role, part)."""
import math

import numpy as np

from .primitives import about, box, ellipsoid, extrude, revolve, rod, wing
from .words import around, both, draw, pick

# Ranges, in lengths of the fuselage. `span` is the span of one half wing; `at` the position along the fuselage
# where the wing's leading edge meets it, and `mount` the height there, in radii; `sweep` is the distance of the
# tip behind it; `taper` the tip's chord divided by the root's; `dihedral` the rise divided by the span.
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
    """A spinner and blades in front of `center`."""
    x, y, z = center
    yield "dark", revolve((x, y, z - .01), (x, y, z + .05), ((0, .022), (.5, .018), (1, 0)), 8)
    turn = rng.uniform(0, math.pi)
    for across, up in around(radius, blades, turn):
        yield "dark", wing((x, y, z + .025), (x + across, y + up, z + .025), .026, .022, .026)


def airplane(rng):
    u = rng.uniform
    kind = pick(rng, airliner=4, business=2, commuter=1.5, light=2, fighter=2)
    p = draw(rng, _PLANES[kind])
    r, span, chord, tip_chord = p["radius"], p["span"], p["chord"], p["chord"] * p["taper"]

    nose, tail = p["nose"], p["tail"]
    vertices, faces = revolve((0, 0, -.5), (0, 0, .5), (
        (0, (.75 if kind == "fighter" else .25) * r), (tail / 2, .72 * r), (tail, r), (1 - nose, r),
        (1 - .55 * nose, .82 * r), (1 - .15 * nose, .42 * r), (1, 0)), 12)
    # the underside of an airliner's tail rises, so that it does not touch the runway at take-off; fighters are flat
    if kind == "fighter":
        vertices[:, 0] *= u(1.2, 1.7)
    else:
        vertices[:, 1] += u(.3, .7) * r * np.clip(1 - (vertices[:, 2] + .5) / tail, 0, 1)
    wide = vertices[:, 0].max()
    yield "body", (vertices, faces)

    # the wing: one half and its mirror image, both beginning inside the fuselage
    y = p["mount"] * r
    biplane = kind == "light" and rng.random() < .2
    if kind == "light":  # at the top or under the belly, never through the cockpit
        y = .85 * r if y > 0 and not biplane else -.75 * r
    root = np.array((0, y, p["at"]))
    tip = np.array((span, y + span * p["dihedral"], p["at"] - p["sweep"]))
    thick = .034 * max(1, 2 * span)  # `make_object` shrinks longer planes more
    yield from both("panel", wing(root, tip, chord, tip_chord, thick, .75 * thick))
    if kind == "airliner" and rng.random() < .5:
        foot, end = tip - (.008, 0, .2 * tip_chord), tip + (.02, .05, -.7 * tip_chord)
        yield from both("panel", wing(foot, end, .75 * tip_chord, .4 * tip_chord, .024))
    if biplane:
        gap = np.array((0, u(.15, .19) - y, u(0, .03)))
        yield from both("panel", wing(root + gap, tip + gap, chord, tip_chord, .8 * thick))
        for where in (.08, .75):  # struts; the inner ones go through the side of the fuselage
            foot = root + where * (tip - root) - (0, 0, .4 * chord)
            yield from both("support", rod(foot, foot + gap, .014, sides=4))

    # the tail
    fin_root, fin_height = u(.12, .18), u(.12, .19)
    fin_sweep = u(.02, .06) if kind == "light" else u(.08, .15)
    fin_base = np.array((0, .2 * r, -.5 + fin_root + .01))
    fin_tip = fin_base + (0, fin_height + .8 * r, -fin_sweep)
    if kind == "fighter" and rng.random() < .5:
        foot, end = fin_base + (.6 * wide, 0, .02), fin_tip + (.6 * wide + u(0, .06), -.02, .02)
        yield from both("panel", wing(foot, end, fin_root, .5 * fin_root, .026))
    else:
        yield "panel", wing(fin_base, fin_tip, fin_root, u(.4, .65) * fin_root, .028)
    high_tail = rng.random() < dict(business=.9, commuter=.6, airliner=.1).get(kind, 0)
    base = fin_tip - (0, .01, 0) if high_tail else np.array((0, .3 * r, -.5 + fin_root))
    end = base + (u(.14, .19) + (.5 * wide if kind == "fighter" else 0), u(0, .03), -u(.3, .9) * fin_sweep)
    yield from both("panel", wing(base, end, u(.09, .12), u(.05, .08), .026))

    # engines
    def nacelle(x, y, z, size, length):
        return revolve((x, y, z - length / 2), (x, y, z + length / 2),
                       ((0, .6 * size), (.4, size), (1, .9 * size)))

    if kind in ("airliner", "commuter"):
        four = kind == "airliner" and rng.random() < .35
        size, length = u(.024, .030) if four or kind == "commuter" else u(.028, .038), u(.11, .16)
        for where in (u(.28, .34), u(.55, .62)) if four else (u(.28, .38),):
            x, y, z = root + where * (tip - root) - (0, size if kind == "airliner" else 0, 0)
            yield from both("support", nacelle(x, y, z, size, length))
            front = z + length / 2
            if kind == "commuter":
                for role, mesh in _propeller(rng, (x, y, front), u(.075, .1), 4):
                    yield from both(role, mesh)
            else:
                yield from both("dark", rod((x, y, front - .03), (x, y, front + .003), .7 * size))
    elif kind == "business":
        size, length, z = u(.024, .034), u(.12, .16), u(-.33, -.27)
        yield from both("support", nacelle(r + .8 * size, .4 * r, z, size, length))
        yield "support", box(2 * r + 1.2 * size, about(.4 * r, .022), about(z, .5 * length))
        if rng.random() < .25:  # a third engine, at the root of the fin
            yield "support", rod((0, r, -.47), (0, 1.1 * r, -.28), .8 * size, size)
    elif kind == "light":
        yield from _propeller(rng, (0, 0, .47), u(.09, .13), int(rng.integers(2, 5)))
        if biplane or rng.random() < .6:  # a fixed undercarriage
            x, y, z = u(.09, .13), -r - u(.05, .08), p["at"] - .02
            yield from both("support", rod((.4 * r, -.6 * r, z), (x, y, z), .013, sides=4))
            yield from both("dark", rod((x - .013, y, z), (x + .013, y, z), .03, sides=10))
    else:
        for x in (-.4 * wide, .4 * wide) if rng.random() < .5 else (0,):
            yield "dark", rod((x, 0, -.53), (x, 0, -.4), .6 * r, .75 * r)
        y, lip = about(-.1 * r, 1.2 * r), u(.08, .18)  # the air intakes
        yield from both("body", box((.5 * wide, 1.15 * wide), y, (-.25, lip), ((.5 * wide, wide), (-.25, .1))))

    # glass: a canopy, or windows as one strip through the fuselage
    if kind == "fighter":
        yield "glass", ellipsoid((0, .75 * r, p["at"] + .22), (.5 * r, .75 * r, u(.09, .13)))
    elif kind == "light":
        # the cockpit is above a low wing and behind its leading edge, but below a high wing and in front of it
        seat, z = (.75, -.04) if y < 0 else (.45, .01)
        yield "glass", ellipsoid((0, seat * r, p["at"] + z), (.75 * r, .7 * r, u(.08, .11)))
    else:
        yield "glass", box(2.02 * r, about(.2 * r, .016), (-.5 + tail, .5 - 1.2 * nose))
        yield "glass", box(1.3 * r, about(.5 * r, .5 * r), about(.5 - .55 * nose, .3 * nose))


# Ranges, in lengths of the car. The cabin lies between z = `tail` and z = `cowl`, above the shoulder, which is at
# `belt` times the height. The roof is shorter than the cabin by `screen` in front and by `rear` behind.
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


def car(rng):
    u = rng.uniform
    kind = pick(rng, sedan=3, hatchback=2, suv=2, van=1.5, pickup=1.5, sports=1.5, bus=1)
    p = draw(rng, _CARS[kind])
    height, width, cowl, tail = p["height"], p["width"], p["cowl"], p["tail"]
    belt = p["belt"] * height
    wheel = min(p["wheel"], .45 * belt)
    floor = wheel * (u(.9, 1.1) if kind in ("suv", "pickup") else u(.6, .8))
    nose = max(floor + (belt - floor) * p["nose"], 2 * wheel + .012)  # keeps the wheels under the bonnet

    front = [(cowl, belt), (.46, nose), (.5, floor + .6 * (nose - floor)), (.48, floor)]
    if kind == "pickup":  # an open bed behind the cab: a low floor, two sides and a tailgate
        deck = floor + .35 * (belt - floor)
        back = [(-.5, floor), (-.5, deck), (tail - .01, deck), (tail - .01, belt)]
        yield from both("body", box((width / 2 - .035, width / 2), (floor, .97 * belt), (-.5, tail)))
        yield "body", box(.96 * width, (floor, .97 * belt), (-.5, -.47))
    else:
        trunk = belt if tail < -.44 else belt * u(.92, 1)
        back = [(-.48, floor), (-.5, floor + .5 * (belt - floor)), (-.485, trunk), (tail, belt)]
    narrow = .97 if kind == "bus" else .9
    yield "body", extrude(back + front, width / 2 * np.array(
        [1 if kind == "pickup" else narrow] * 2 + [.97, 1, 1, narrow, narrow, narrow]))

    # The cabin consists of slices by height: s = 0 is the shoulder, 1 the roof. Windows and pillars are
    # slices too, slightly wider than the cabin; pillars and panels cover only an interval of z.
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
            yield "body", cabin(.08, .86, .009, about(z + .02, .024))

    # wheels: tyre and hub, and in the bed of a pickup a box over each wheel
    side, front, back = width / 2, .5 - u(.16, .21), -.5 + u(.17, .24)
    for z in (front, back):
        yield from both("dark", rod((side - .05, wheel, z), (side + .008, wheel, z), wheel, sides=14))
        yield from both("support", rod((side - .02, wheel, z), (side + .014, wheel, z), .55 * wheel))
    if kind == "pickup":
        y = deck - .01, 2 * wheel + .01
        yield from both("body", box((side - .065, side - .02), y, about(back, 2.2 * wheel)))

    # lamps in front and behind, grille, bumpers
    lamp, tail_lamp = floor + .68 * (nose - floor), floor + .6 * (belt - floor)
    yield from both("panel", box((.27 * width, .43 * width), about(lamp, .03), (.44, .5)))
    yield from both("panel", box((.33 * width, .44 * width), about(tail_lamp, .035), (-.505, -.46)))
    yield "dark", box(.4 * width, about(lamp - .01, .035), (.44, .502))
    for z in (.49, -.49):
        yield "dark", box(.92 * width, about(floor + .025, .035), about(z, .04))

    if kind == "sports" and rng.random() < .5:
        y = belt + u(.03, .06)
        yield from both("panel", box((.25 * width, .3 * width), (belt * .85, y), (-.47, -.44)))
        yield "panel", box(.9 * width, (y - .01, y + .015), (-.5, -.42))
    elif kind in ("suv", "hatchback") and rng.random() < .35:
        yield from both("support", box((.6 * roof, .6 * roof + .02), (height - .01, height + .02),
                                       (roof_back + .06, roof_front - .05)))
    elif kind == "suv" and rng.random() < .4:  # the spare wheel on the back
        yield "dark", rod((0, .6 * belt + .04, -.47), (0, .6 * belt + .04, -.54), .9 * wheel, sides=12)
