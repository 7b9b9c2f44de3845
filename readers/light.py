"""The light that pictures were made in, where the dataset's files tell it."""
import math
import os

from engine import strict_json
from errors import InputError

DESCRIPTION = "dataset.json"  # of datasets that this program made
# Of those it made: towards the light, renderer's frame: above, a little right and in front.
AMBIENT, DIRECTIONAL, DIRECTION = 0.5, 0.5, (0.35, 0.85, -0.4)


def read_light(data_dir, mirrors=True):
    """(ambient, directional, x, y, z), or None where it is not told: pictures show the colour of a surface times
    ambient + directional max(0, n . (x, y, z)), n being the unit normal of the side that is seen, in the renderer's
    frame. It is the entry "light" of dataset.json; the embedded data of older versions, which lack it, had that of
    `DIRECTION`."""
    path = os.path.join(data_dir, DESCRIPTION)
    try:
        with open(path) as file:
            told = strict_json.loads(file.read())
        if "light" not in told:
            made = told.get("made_by") == "synthetic shapes"
            sign = 1 if mirrors else -1  # pictures of cameras that do not mirror were lit from the other side
            return (AMBIENT, DIRECTIONAL, *(sign * x for x in DIRECTION)) if made else None
        light = told["light"]
        if light is None:
            return None
        numbers = [float(light[name]) for name in ("ambient", "directional")] + [float(x) for x in light["direction"]]
        if len(numbers) != 5 or not all(map(math.isfinite, numbers)) or numbers[0] <= 0 or numbers[1] < 0:
            raise ValueError("ambient must be above 0, directional at least 0, and direction three numbers")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path} tells no light like {{"ambient": a, "directional": d, "direction": [x, y, z]}}: '
                         f"{type(error).__name__}: {error}") from None
    return tuple(numbers)
