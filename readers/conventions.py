"""What a dataset's meshes, cameras and voxels mean; needs no files.

Convention
----------
Predicted meshes live in the RENDERER's frame of their dataset: y up, seen by its `project`. A mesh that people made
is right-handed with y up: `flip_handedness` goes from one to the other and back.
"""
import abc

import torch

import neural_renderer as nr
import voxelization

VOXEL_GRID = 32


class Conventions(abc.ABC):
    """Cameras, axes, placing and voxels of a dataset. All of it is of the class: nothing is opened."""

    # The dataset's own.
    name = None
    channels = 4                         # of the images
    img_sizes = (64,)                    # sides that the images may have
    num_views = None                     # numbered views that all objects share, if there are such
    count_of_views = None                # views of an object in the published files
    mirrors = True                       # its cameras mirror a right-handed scene
    grid_rule = None                     # how voxels come from coordinates, in words
    class_names = {}

    @classmethod
    @abc.abstractmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B, ...)."""

    @classmethod
    def for_pictures(cls, vertices, cameras):
        """`project` with depths that a picture may be shaded by."""
        return cls.project(vertices, cameras)

    @classmethod
    @abc.abstractmethod
    def turntable(cls, count):
        """Cameras (count, ...) of one turn around an object."""

    @classmethod
    @abc.abstractmethod
    def turned(cls, cameras, turns):
        """Cameras that see the object turned further, by a number of whole turns."""

    @classmethod
    def mirror_planes(cls):
        """Planes that objects may be symmetric in, as `mirrored` takes them; one alone is known to be theirs."""
        return ()

    @classmethod
    def plane_named(cls, plane):
        """One of `mirror_planes` in words."""
        return "the plane z = 0"

    @classmethod
    def mirrored(cls, cameras, plane):
        """Cameras (B, ...) from which an object that is symmetric in a plane looks like the flipped images of what the
        given ones see. It runs inside CUDA graphs."""
        raise ValueError(f"{cls.name} knows no mirrored cameras")

    @staticmethod
    def to_grid(vertices):
        """Renderer frame to [0, 1]^3, as `voxelize` needs it."""
        return vertices * (VOXEL_GRID - 1) / VOXEL_GRID + 0.5

    @staticmethod
    def from_grid(vertices):
        """The inverse of `to_grid`."""
        return (vertices - 0.5) * VOXEL_GRID / (VOXEL_GRID - 1)

    @staticmethod
    @abc.abstractmethod
    def grid_axes(grid):
        """The voxeliser's grids (..., x, y, z) in the dataset's axes."""

    @staticmethod
    @abc.abstractmethod
    def mesh_axes(grid):
        """The inverse of `grid_axes`."""

    @classmethod
    def place(cls, vertices):
        """A mesh that people made, right-handed, y up, front on +z, as this dataset's objects lie in the
        renderer's frame."""
        return cls.flip_handedness(vertices)

    @classmethod
    def silhouette_size(cls, img_size):
        """Side of the silhouettes that go with images of a size."""
        return img_size

    @classmethod
    def renderer(cls, image_size):
        """A Renderer for vertices that went through `project`."""
        return nr.Renderer(image_size, camera_mode="none")

    @classmethod
    def flip_handedness(cls, vertices):
        """Renderer frame to the frame of people's meshes, and back. Where `mirrors`, z is negated; reverse
        the faces too."""
        if not cls.mirrors:
            return vertices
        return vertices * torch.tensor([1.0, 1.0, -1.0], dtype=vertices.dtype, device=vertices.device)

    @classmethod
    def people_faces(cls, faces):
        """Faces (F, 3) for vertices that went through `flip_handedness`."""
        return faces.flip(-1) if cls.mirrors else faces

    @classmethod
    def voxelize(cls, vertices, faces):
        """Occupancy (B, 32, 32, 32) bool, in the dataset's axes, of meshes in the renderer's frame."""
        corners = nr.vertices_to_faces(cls.to_grid(vertices), faces)
        return cls.grid_axes(voxelization.voxelize(corners, VOXEL_GRID, dtype=torch.bool))

    @classmethod
    def voxel_mesh(cls, grid):
        """Cubes of an occupancy grid (32, 32, 32), dataset axes, as a mesh in the renderer's frame:
        vertices (1, V, 3), faces (F, 3). The inverse of `voxelize`, cell for cell."""
        inside = cls.mesh_axes(grid)
        padded = torch.nn.functional.pad(inside, (1,) * 6)
        quads = []
        for axis in range(3):
            for step in (0, 1):
                cells = inside & ~padded.roll(1 - 2 * step, axis)[1:-1, 1:-1, 1:-1]
                corner = cells.nonzero()[:, None].expand(-1, 4, -1).clone()  # (n, 4, 3)
                corner[..., axis] += step
                corner[:, [1, 2], (axis + 1) % 3] += 1
                corner[:, [2, 3], (axis + 2) % 3] += 1
                quads.append(corner if step else corner.flip(1))
        corners = torch.cat(quads).reshape(-1, 3).float() / VOXEL_GRID
        start = 4 * torch.arange(len(corners) // 4)[:, None, None]
        faces = (start + torch.tensor([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
        return cls.from_grid(corners)[None], faces

    @classmethod
    def other_views(cls, cameras, poses):
        """Random other cameras and their pose bins, one for each: here those of other images of the
        batch, so that they are spread as the dataset's are."""
        shift = int(torch.randint(1, len(cameras), ())) if len(cameras) > 1 else 0
        return cameras.roll(shift, 0), poses.roll(shift, 0)

    @classmethod
    def class_name(cls, class_id):
        return cls.class_names.get(class_id, class_id)

    @classmethod
    def class_label(cls, class_id):
        """'02958343 car', or the id alone where it is the name."""
        name = cls.class_name(class_id)
        return f"{class_id} {name}" if name != class_id else class_id
