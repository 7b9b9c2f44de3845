"""Draw a turntable: a striped teapot from all sides."""
import torch

import neural_renderer as nr
from common import options, teapot, write_gif
from neural_renderer.textures import cube_weights


def main():
    given = options(__doc__, "example1.gif", steps=60, size=256)
    vertices, faces = teapot()

    # A cube of 4 x 4 x 4 texels for each face; texel (i, j, k) lies between its three corners.
    weights = torch.tensor(cube_weights(4)).float()                   # (64, 3)
    height = (weights @ vertices[faces])[..., 1:2]                    # (F, 64, 1)
    stripes = torch.sigmoid(8 * torch.sin(30 * height) - 4)
    colours = stripes * torch.tensor([0.15, 0.3, 0.65]) + (1 - stripes) * torch.tensor([0.95, 0.9, 0.8])
    textures = colours.reshape(-1, 4, 4, 4, 3)

    renderer = nr.Renderer(image_size=given.size, camera_mode="look_at", viewing_angle=22,
                           background_color=(1, 1, 1), light_direction=(0.4, 0.8, -0.4))
    frames = []
    for step in range(given.steps):
        renderer.eye = nr.get_points_from_angles(3.2, 25, 360 * step / given.steps)
        image = renderer(vertices[None], faces[None], textures[None], mode="rgb")
        frames.append(image[0])
    write_gif(given.out, frames)


if __name__ == "__main__":
    main()
