"""`Renderer`: camera, light and rasteriser in one object, with the interface of the original."""
import math
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from . import ops
from .batches import pad
from .cameras import look, look_at, perspective, projection
from .checks import ArrayLike, check_faces, check_vertices, integers, numbers, real, tensor_of
from .lighting import corners_of, face_light
from .rasterize import DEFAULT_EPS, Size

Meshes: TypeAlias = Tensor | Sequence[Tensor]  # a batch, or a list of meshes of different sizes
Camera: TypeAlias = ArrayLike | None  # in a call; None: the attribute of the Renderer


# Attributes that programs set on a Renderer although they do nothing, here and in the original, and what helps instead.
MISTAKEN = {"camera_up": "no attribute turns the camera; use nr.look_at(vertices, eye, up=...) and camera_mode='none'",
            "light_intensity_direction": "use light_intensity_directional",
            "use_lights": "for colours without light set light_intensity_ambient=1 and light_intensity_directional=0"}
_warned_of: set[str] = set()


def _list(value: ArrayLike) -> ArrayLike:
    """A tuple as a list: programs also change single numbers of an attribute, such as `renderer.light_direction[1]`."""
    return list(value) if isinstance(value, tuple) else value


def _padded(vertices, faces, textures=None):
    """Lists of meshes as tensors; tensors stay as they are."""
    if isinstance(vertices, (list, tuple)) or isinstance(faces, (list, tuple)):
        return pad(vertices, faces, textures)
    return vertices, faces, textures


def _for_each_camera(count, vertices, *others):
    """One mesh, repeated for each of several cameras without a copy; other batches stay as they are."""
    if len(vertices) != 1 or count == 1:
        return vertices, *others
    return tuple(tensor.expand(count, *tensor.shape[1:]) if isinstance(tensor, Tensor) and len(tensor) == 1
                 and tensor.dim() > 2 else tensor for tensor in (vertices, *others))


class Renderer(torch.nn.Module):
    """Draws meshes: `renderer(vertices, faces, textures, mode=None|'rgb'|'silhouettes'|'depth')`.

    vertices are (B, V, 3) float, faces (B, F, 3) or (F, 3) integer, textures (B, F, T, T, T, 3) float, or (B, V, 3) for
    colours of vertices. One mesh (B = 1) may have C cameras, which draw C images. Meshes of different sizes are lists
    of (V_i, 3), (F_i, 3) and (F_i, T, T, T, 3) or (V_i, 3); `unpack` makes these lists from packed meshes. A face with
    a corner that is NaN or infinite is not drawn. Faces that reach behind the eye are clipped at `near`, except with
    perspective=False, where there is no eye.

    Parameters
    ----------
    image_size : int or (height, width)
    camera_mode : 'projection' (OpenCV: K, R, t, dist_coeffs, orig_size), 'look_at' (towards the
        origin from `eye`), 'look' (along `camera_direction` from `eye`), or 'none' (vertices are
        already in NDC).
    viewing_angle : HALF the field of view, in degrees. The default `eye` is
        (0, 0, -(1 / tan(viewing_angle) + 1)).
    near, far : only depths between these are drawn, in every mode. If nothing lies between, the CPU warns.
    light_direction : towards the light, in world space, not normalised.
    edge_depth : the depth of a pixel on an edge, with anti_aliasing. 'mixed' averages all four samples, of which those
        that miss the object count as `far`, as the original does: neither the object's depth nor the ground's.
        'covered' averages the samples that hit, so that every depth below `far` is an object's; it draws a second time.

    All are attributes of the same name and may be set later. `eye` is (3,) or (B, 3). The attributes K, R, t and
    dist_coeffs are tensors; arrays are copied to tensors on the CPU, and drawing moves them to the device of the
    vertices. The default of dist_coeffs is zeros (1, 5).

    Convention
    ----------
    World and NDC: x right, y up; z is depth. Row 0 of an image is the top. The cameras mirror a
    right-handed scene (see `neural_renderer.cameras`).
    """

    def __init__(self, image_size: Size = 256, anti_aliasing: bool = True, background_color: ArrayLike = (0, 0, 0),
                 fill_back: bool = True, camera_mode: str = "projection", K: ArrayLike | None = None,
                 R: ArrayLike | None = None, t: ArrayLike | None = None, dist_coeffs: ArrayLike | None = None,
                 orig_size: float | ArrayLike = 1024, perspective: bool = True, viewing_angle: float = 30,
                 camera_direction: ArrayLike = (0, 0, 1), near: float = 0.1, far: float = 100,
                 light_intensity_ambient: float | ArrayLike = 0.5, light_intensity_directional: float | ArrayLike = 0.5,
                 light_color_ambient: ArrayLike = (1, 1, 1), light_color_directional: ArrayLike = (1, 1, 1),
                 light_direction: ArrayLike = (0, 1, 0), edge_depth: str = "mixed") -> None:
        super().__init__()
        self.image_size = image_size
        self.anti_aliasing = anti_aliasing
        self.background_color = _list(background_color)
        self.fill_back = fill_back
        self.camera_mode = camera_mode
        self._undistorted = torch.zeros(1, 5)
        self.K, self.R, self.t = K, R, t
        self.dist_coeffs = self._undistorted if dist_coeffs is None else dist_coeffs
        self.orig_size = orig_size
        self.perspective = perspective
        self.viewing_angle = viewing_angle
        if not 0 < real("viewing_angle", viewing_angle) < 90:
            raise ValueError(f"viewing_angle must lie between 0 and 90 degrees, got {viewing_angle}")
        self.eye: ArrayLike = [0.0, 0.0, -(1.0 / math.tan(math.radians(viewing_angle)) + 1.0)]
        self.camera_direction = _list(camera_direction)
        self.near, self.far = near, far
        self.light_intensity_ambient = light_intensity_ambient
        self.light_intensity_directional = light_intensity_directional
        self.light_color_ambient = _list(light_color_ambient)
        self.light_color_directional = _list(light_color_directional)
        self.light_direction = _list(light_direction)
        self.edge_depth = edge_depth
        self.rasterizer_eps = 1e-3
        self._check_camera_mode()

    def __setattr__(self, name, value):
        if name in MISTAKEN and name not in _warned_of:
            _warned_of.add(name)
            warnings.warn(f"Renderer.{name} does nothing: {MISTAKEN[name]}", stacklevel=2)
        if name in ("K", "R", "t", "dist_coeffs") and isinstance(value, np.ndarray):
            value = tensor_of(value)
        # torch forbids setting a Parameter's attribute to plain numbers. Programs do this with `eye`, so allow it.
        if not isinstance(value, torch.nn.Parameter):
            self.__dict__.get("_parameters", {}).pop(name, None)
        super().__setattr__(name, value)

    def _check_camera_mode(self):
        if self.camera_mode not in ("projection", "look", "look_at", "none", "None", None):
            raise ValueError("camera_mode must be 'projection', 'look', 'look_at' or 'none', got "
                             f"{self.camera_mode!r}")

    def transform(self, vertices: Tensor, K: Camera = None, R: Camera = None, t: Camera = None,
                  dist_coeffs: Camera = None, orig_size: float | Camera = None) -> Tensor:
        """Transform world coordinates (B, V, 3) to NDC and depth (B, V, 3) by the camera mode."""
        self._check_camera_mode()
        check_vertices(vertices)
        if vertices.dtype in (torch.float16, torch.bfloat16):
            vertices = vertices.float()
        with torch.autocast(vertices.device.type, enabled=False):
            if self.camera_mode == "projection":
                given: dict[str, Any] = {"K": self.K if K is None else K, "R": self.R if R is None else R,
                                         "t": self.t if t is None else t}
                missing = [name for name, value in given.items() if value is None]
                if missing:
                    raise ValueError(f"camera_mode 'projection' needs {', '.join(missing)}: pass it to "
                                     "Renderer or to the call, or choose another camera_mode")
                if dist_coeffs is None:
                    dist_coeffs = self.dist_coeffs
                if dist_coeffs is self._undistorted and not torch.compiler.is_compiling() and not dist_coeffs.any():
                    dist_coeffs = None  # projection makes zeros on the device; a copy to it would wait
                return projection(vertices, **given, dist_coeffs=dist_coeffs,
                                  orig_size=self.orig_size if orig_size is None else orig_size)
            if self.camera_mode in ("none", "None", None):
                return vertices
            if self.camera_mode == "look_at":
                vertices = look_at(vertices, self.eye)
            else:
                vertices = look(vertices, self.eye, self.camera_direction)
            return perspective(vertices, self.viewing_angle) if self.perspective else vertices

    def light(self, vertices: Tensor, faces: Tensor) -> Tensor:
        """Light (B, F, 2, 3) on the fronts and backs of a mesh in world coordinates."""
        check_vertices(vertices)
        faces = integers(faces)
        check_faces(faces, vertices)
        return self._light(vertices, faces)

    def _light(self, vertices, faces):
        return face_light(corners_of(vertices, faces), self.light_intensity_ambient,
                          self.light_intensity_directional, self.light_color_ambient,
                          self.light_color_directional, self.light_direction)

    def _draw(self, vertices, faces, textures, eps, camera, **wanted):
        if self.edge_depth not in ("mixed", "covered"):
            raise ValueError(f"edge_depth must be 'mixed' or 'covered', got {self.edge_depth!r}")
        vertices, faces, textures = _padded(vertices, faces, textures)
        screen, faces = self.transform(vertices, *camera), integers(faces)
        vertices, faces, textures = _for_each_camera(len(screen), vertices, faces, textures)
        checked = check_faces(faces, vertices)
        light = background = None
        if wanted.get("rgb"):
            if textures is None:  # white: one texel for all faces
                textures = screen.new_ones(1, 1, 1, 1, 1, 3).expand(
                    len(screen), faces.shape[-2], -1, -1, -1, -1)
            light = self._light(vertices.to(screen.dtype), faces)
            background = numbers("background_color", self.background_color, screen, "three numbers")
        settings = dict(near=self.near, far=self.far, eps=eps, fill_back=self.fill_back, perspective=self._divides(),
                        checked=checked)
        covered = wanted.get("depth") and self.anti_aliasing and self.edge_depth == "covered"
        rgb, alpha, depth = ops.rasterize(
            screen, faces, textures, light, background, image_size=self.image_size, anti_aliasing=self.anti_aliasing,
            **settings, **wanted) if not covered or len(wanted) > 1 else (None, None, None)
        return rgb, alpha, self._covered_depth(screen, faces, settings) if covered else depth

    def _covered_depth(self, screen, faces, settings):
        """Mean depth (B, H, W) of the samples of each pixel that hit a face, `far` where none does."""
        height, width = ops.image_shape(self.image_size)
        samples = ops.rasterize(screen, faces, image_size=(2 * height, 2 * width), anti_aliasing=False, depth=True,
                                **settings)[2].unflatten(1, (height, 2)).unflatten(3, (width, 2))
        hit = samples < self.far
        depth = (samples * hit).sum((2, 4)) / hit.sum((2, 4)).clamp_min(1)
        return torch.where(hit.any(4).any(2), depth, torch.full_like(depth, self.far))

    def _divides(self):
        """Whether transform() divides x and y by the depth."""
        return self.perspective or self.camera_mode not in ("look", "look_at")

    def render_silhouettes(self, vertices: Meshes, faces: Meshes, K: Camera = None, R: Camera = None, t: Camera = None,
                           dist_coeffs: Camera = None, orig_size: float | Camera = None) -> Tensor:
        """Coverage (B, H, W) in [0, 1]."""
        return self._draw(vertices, faces, None, DEFAULT_EPS, (K, R, t, dist_coeffs, orig_size),
                          alpha=True)[1]

    def render_depth(self, vertices: Meshes, faces: Meshes, K: Camera = None, R: Camera = None, t: Camera = None,
                     dist_coeffs: Camera = None, orig_size: float | Camera = None) -> Tensor:
        """Depth (B, H, W); `far` where nothing is drawn; at edges see `edge_depth`."""
        return self._draw(vertices, faces, None, DEFAULT_EPS, (K, R, t, dist_coeffs, orig_size),
                          depth=True)[2]

    def render_rgb(self, vertices: Meshes, faces: Meshes, textures: Meshes | None = None, K: Camera = None,
                   R: Camera = None, t: Camera = None, dist_coeffs: Camera = None,
                   orig_size: float | Camera = None) -> Tensor:
        """Colours (B, 3, H, W). textures are (B, F, T, T, T, 3) or (B, V, 3); None is white."""
        return self._draw(vertices, faces, textures, self.rasterizer_eps,
                          (K, R, t, dist_coeffs, orig_size), rgb=True)[0]

    def render(self, vertices: Meshes, faces: Meshes, textures: Meshes | None = None, K: Camera = None,
               R: Camera = None, t: Camera = None, dist_coeffs: Camera = None,
               orig_size: float | Camera = None) -> tuple[Tensor, Tensor, Tensor]:
        """(rgb (B, 3, H, W), depth (B, H, W), alpha (B, H, W)) in one pass."""
        rgb, alpha, depth = self._draw(vertices, faces, textures, self.rasterizer_eps,
                                       (K, R, t, dist_coeffs, orig_size), rgb=True, alpha=True,
                                       depth=True)
        return rgb, depth, alpha

    def render_face_index(self, vertices: Meshes, faces: Meshes, K: Camera = None, R: Camera = None, t: Camera = None,
                          dist_coeffs: Camera = None, orig_size: float | Camera = None,
                          return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The index into `faces` of the face at the centre of each pixel: (B, H, W) int64, -1 if there is none.

        `anti_aliasing` does not change the result. An anti-aliased image is the average of four samples beside the
        centre, so a pixel on an edge may have an index and a silhouette below 1, or index -1 and a silhouette above 0.

        With `return_weights`, also returns the perspective-correct barycentric weights (B, H, W, 3) of the face's
        corners at the centre, 0 if there is no face. The index has no gradient; the gradient of the weights is exact.
        """
        vertices, faces, _ = _padded(vertices, faces)
        screen, faces = self.transform(vertices, K, R, t, dist_coeffs, orig_size), integers(faces)
        vertices, faces = _for_each_camera(len(screen), vertices, faces)
        checked = check_faces(faces, vertices)
        index = ops.face_index(screen, faces, image_size=self.image_size, near=self.near, far=self.far,
                               fill_back=self.fill_back, perspective=self._divides(), checked=checked)
        return (index, ops.corner_weights(screen, faces, index)) if return_weights else index

    def forward(self, vertices: Meshes, faces: Meshes, textures: Meshes | None = None, mode: str | None = None,
                K: Camera = None, R: Camera = None, t: Camera = None, dist_coeffs: Camera = None,
                orig_size: float | Camera = None) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        camera = (K, R, t, dist_coeffs, orig_size)
        if mode is None:
            return self.render(vertices, faces, textures, *camera)
        if mode == "rgb":
            return self.render_rgb(vertices, faces, textures, *camera)
        if mode == "silhouettes":
            return self.render_silhouettes(vertices, faces, *camera)
        if mode == "depth":
            return self.render_depth(vertices, faces, *camera)
        raise ValueError(f"mode must be None, 'rgb', 'silhouettes' or 'depth', got {mode!r}")
