"""Read the light of a dataset's pictures from its files."""
import math
import os

from engine import strict_json
from errors import InputError

DESCRIPTION = "dataset.json"  # in datasets that this program made
# Their default light; the direction is towards the light, in the renderer's frame: above, a little right and in front.
AMBIENT, DIRECTIONAL, DIRECTION = 0.5, 0.5, (0.35, 0.85, -0.4)


def read_light(data_dir, dataset):
    """(ambient, directional, x, y, z), or None if the files do not tell one light for all pictures.

    The pictures show the colour of a surface times ambient + directional max(0, n . (x, y, z)); n is the unit normal
    of the visible side, in the renderer's frame.

    The light is the entry "light" of dataset.json. Sets of older versions lack the entry; their light was that of
    `DIRECTION`, and the opposite one for cameras that do not mirror. The result is None for a light that is random for
    each picture, and for one that stands still for the viewer, since it turns in the renderer's frame.
    """
    path = os.path.join(data_dir, DESCRIPTION)
    try:
        with open(path) as file:
            told = strict_json.loads(file.read())
        light = told.get("light")
        if dataset.light_frame != "renderer" or isinstance(light, str):
            return None
        if light is None:
            sign = 1 if dataset.mirrors else -1
            return (AMBIENT, DIRECTIONAL, *(sign * x for x in DIRECTION)) if "made_by" in told else None
        if light.get("frame", "renderer") != "renderer":
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
