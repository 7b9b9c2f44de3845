"""The light that pictures were made in, where the dataset's files tell it."""
import math
import os

from engine import strict_json
from errors import InputError

DESCRIPTION = "dataset.json"  # of datasets that this program made
# Of those it made: towards the light, renderer's frame: above, a little right and in front.
AMBIENT, DIRECTIONAL, DIRECTION = 0.5, 0.5, (0.35, 0.85, -0.4)


def read_light(data_dir, dataset):
    """(ambient, directional, x, y, z), or None where no light is told that all pictures share: they show the colour of
    a surface times ambient + directional max(0, n . (x, y, z)), n being the unit normal of the side that is seen, in
    the renderer's frame.

    It is the entry "light" of dataset.json. Sets that older versions made lack it and have that of `DIRECTION`;
    pictures of cameras that do not mirror were lit from the other side. A light that stands still for the viewer turns
    in the renderer's frame, and one that is drawn at random for each picture is not shared: both are None.
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
