"""Optimise textures until a teapot looks like a picture from every side, and turn it around."""
import torch

import neural_renderer as nr
from common import options, teapot, write_gif


def sunset(size):
    """A picture (3, size, size) in [0, 1]: sun, sky and sea."""
    y, x = torch.meshgrid(torch.linspace(1, -1, size), torch.linspace(-1, 1, size), indexing="ij")
    sky = torch.stack([0.95 - 0.3 * y, 0.5 - 0.1 * y, 0.3 + 0.4 * y])
    waves = 0.5 + 0.5 * torch.sin(60 * y + 3 * torch.sin(6 * x))
    sea = torch.stack([0.1 + 0.3 * waves, 0.2 + 0.2 * waves, 0.45 + 0.2 * waves])
    sun = ((x ** 2 + (y - 0.15) ** 2) < 0.09)
    picture = torch.where(y < -0.1, sea, sky)
    return torch.where(sun & (y > -0.1), torch.tensor([1.0, 0.95, 0.6])[:, None, None], picture).clamp(0, 1)


def main():
    given = options(__doc__, "example3.gif", steps=120, size=128)
    vertices, faces = teapot()
    mesh = nr.Mesh(vertices, faces, texture_size=4)  # its textures are a Parameter
    renderer = nr.Renderer(image_size=given.size, camera_mode="look_at", viewing_angle=22,
                           background_color=(1, 1, 1), light_intensity_ambient=1, light_intensity_directional=0)
    wanted = sunset(given.size)
    optimizer = torch.optim.Adam([mesh.textures], lr=0.1)
    generator = torch.Generator().manual_seed(0)

    def draw(azimuth):
        renderer.eye = nr.get_points_from_angles(3.2, 15, azimuth)
        colours = torch.sigmoid(mesh.textures)  # within [0, 1]
        return renderer(mesh.vertices[None], mesh.faces[None], colours[None])

    for _ in range(given.steps):
        image, _, alpha = draw(float(torch.rand((), generator=generator)) * 360)
        loss = (alpha[:, None] * (image - wanted)).square().sum() / alpha.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"mean squared difference {loss:.4f}")
    with torch.no_grad():
        write_gif(given.out, [torch.cat([wanted, draw(azimuth)[0][0]], 2) for azimuth in range(0, 360, 8)])


if __name__ == "__main__":
    main()
