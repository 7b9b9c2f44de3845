"""The conventions of a dataset: its meshes, cameras and voxels. They need no files.

Convention
----------
Predicted meshes are in the RENDERER's frame of their dataset: y up, transformed to NDC by its `project`. Mesh files are
in the PEOPLE frame: right-handed, y up, front to +z. `flip_handedness` converts between the handedness of the two.
"""
import abc

import torch

import neural_renderer as nr
import voxelization
from making.grids import cubes

VOXEL_GRID = 32


class Conventions(abc.ABC):
    """Cameras, axes, placement and voxels of a dataset. They belong to the class; no files are opened."""

    # The dataset's own.
    name = None
    channels = 4                         # channels of the images
    img_sizes = (64,)                    # possible sides of the images in pixels
    num_views = None                     # number of the views if all objects share numbered views
    count_of_views = None                # views of an object in the published files
    mirrors = True                       # whether its cameras mirror a right-handed scene
    grid_rule = None                     # how coordinates become voxels, in words
    class_names = {}
    mirror_axis = None                   # 0 or 2: its objects are symmetric in x or z of the renderer's frame, if told
    shows_grounds = True                 # what is behind the objects is a part of the images that it reads
    light_frame = "renderer"             # in which our pictures have one light: the renderer's or the viewer's

    @classmethod
    @abc.abstractmethod
    def project(cls, vertices, cameras):
        """Transform vertices (B, V, 3) from the renderer's frame to NDC by cameras (B, ...)."""

    @classmethod
    def for_pictures(cls, vertices, cameras):
        """`project` for shaded pictures, with depths at which perspective-correct interpolation is right."""
        return cls.project(vertices, cameras)

    @classmethod
    @abc.abstractmethod
    def turntable(cls, count):
        """Cameras (count, ...) of one turn around an object."""

    @classmethod
    @abc.abstractmethod
    def turned(cls, cameras, turns):
        """Cameras moved around the object by `turns` whole turns."""

    @classmethod
    def mirror_planes(cls):
        """Candidate planes of symmetry, as `mirrored` takes them. A single one is known to be the plane of symmetry."""
        return ()

    @classmethod
    def plane_named(cls, plane):
        """Describe one of `mirror_planes` in words."""
        return "the plane z = 0"

    @classmethod
    def mirrored(cls, cameras, plane):
        """Mirror cameras (B, ...) in a plane: from the result, an object that is symmetric in the plane looks like the
        flipped image from the given camera. It runs inside CUDA graphs."""
        raise ValueError(f"{cls.name} has no mirrored cameras")

    @staticmethod
    def to_grid(vertices):
        """Transform vertices from the renderer's frame to [0, 1]^3 for the voxeliser."""
        return vertices * (VOXEL_GRID - 1) / VOXEL_GRID + 0.5

    @staticmethod
    def from_grid(vertices):
        """The inverse of `to_grid`."""
        return (vertices - 0.5) * VOXEL_GRID / (VOXEL_GRID - 1)

    @staticmethod
    @abc.abstractmethod
    def grid_axes(grid):
        """Convert the voxeliser's grids (..., x, y, z) to the dataset's axes."""

    @staticmethod
    @abc.abstractmethod
    def mesh_axes(grid):
        """The inverse of `grid_axes`."""

    @classmethod
    def place(cls, vertices):
        """Transform a mesh from the people frame (right-handed, y up, front to +z) to the renderer's frame, placed like
        this dataset's objects."""
        return cls.flip_handedness(vertices)

    @classmethod
    def silhouette_size(cls, img_size):
        """Side of the silhouettes of images with side img_size."""
        return img_size

    @classmethod
    def renderer(cls, image_size):
        """A Renderer for vertices that `project` has transformed."""
        return nr.Renderer(image_size, camera_mode="none")

    @classmethod
    def flip_handedness(cls, vertices):
        """Convert vertices from the renderer's frame to a right-handed frame, or back: z is negated if `mirrors`. Use
        `people_faces` for the faces."""
        if not cls.mirrors:
            return vertices
        return vertices * torch.tensor([1.0, 1.0, -1.0], dtype=vertices.dtype, device=vertices.device)

    @classmethod
    def people_faces(cls, faces):
        """Faces (F, 3) for vertices that `flip_handedness` has transformed; reversed if `mirrors`."""
        return faces.flip(-1) if cls.mirrors else faces

    @classmethod
    def voxelize(cls, vertices, faces):
        """Voxelise meshes in the renderer's frame: (B, 32, 32, 32) bool in the dataset's axes."""
        corners = nr.vertices_to_faces(cls.to_grid(vertices), faces)
        return cls.grid_axes(voxelization.voxelize(corners, VOXEL_GRID, dtype=torch.bool))

    @classmethod
    def voxel_mesh(cls, grid):
        """The cells of a grid (32, 32, 32) in the dataset's axes as cubes in the renderer's frame: vertices
        (1, V, 3), faces (F, 3). The inverse of `voxelize`, cell by cell."""
        vertices, faces = cubes(cls.mesh_axes(grid).numpy())
        return cls.from_grid(torch.from_numpy(vertices).float() / VOXEL_GRID)[None], torch.from_numpy(faces)

    @classmethod
    def other_views(cls, cameras, poses):
        """A random other camera for each camera, with its pose bin. Here it is taken from another image of the batch,
        so that the cameras are distributed like the dataset's."""
        shift = int(torch.randint(1, len(cameras), ())) if len(cameras) > 1 else 0
        return cameras.roll(shift, 0), poses.roll(shift, 0)

    @classmethod
    def class_name(cls, class_id):
        return cls.class_names.get(class_id, class_id)

    @classmethod
    def class_label(cls, class_id):
        """'02958343 car', or only the id if it is the name."""
        name = cls.class_name(class_id)
        return f"{class_id} {name}" if name != class_id else class_id
