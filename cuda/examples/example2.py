"""Deform a sphere until its silhouettes are those of a teapot: target on the left, mesh on the right."""
import torch

import neural_renderer as nr
from common import options, teapot, write_gif

VIEWS = 8


def sphere(rings=26, sides=40, radius=0.7):
    """Vertices (V, 3) and faces (F, 3) of a sphere of latitude rings and longitude sides."""
    latitude = torch.linspace(-torch.pi / 2, torch.pi / 2, rings)[1:-1, None]
    turn = torch.arange(sides) * 2 * torch.pi / sides
    globe = torch.stack([latitude.cos() * turn.cos(), latitude.sin().expand(-1, sides),
                         latitude.cos() * turn.sin()], -1).reshape(-1, 3)
    poles = torch.tensor([[0, -1.0, 0], [0, 1.0, 0]])
    a = torch.arange((rings - 3) * sides)
    b = a // sides * sides + (a + 1) % sides
    k = torch.arange(sides)
    after, top = (k + 1) % sides, (rings - 3) * sides
    south, north = len(globe), len(globe) + 1
    faces = torch.cat([torch.stack(t, 1) for t in (
        (a, a + sides, b), (b, a + sides, b + sides), (torch.full_like(k, south), k, after),
        (torch.full_like(k, north), top + after, top + k))])
    return radius * torch.cat([globe, poles]), faces


def neighbours(faces, count):
    """Matrix (V, V) that maps vertices to the mean of their neighbours."""
    i, j = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).T
    matrix = torch.zeros(count, count)
    matrix[i, j] = matrix[j, i] = 1.0
    return matrix / matrix.sum(1, keepdim=True)


def main():
    given = options(__doc__, "example2.gif", steps=100, size=96)
    renderer = nr.Renderer(image_size=given.size, camera_mode="look_at", viewing_angle=22,
                           light_direction=(0.4, 0.8, -0.4))
    azimuths = torch.arange(VIEWS) * 360.0 / VIEWS
    renderer.eye = nr.get_points_from_angles(torch.full((VIEWS,), 3.2), torch.full((VIEWS,), 20.0), azimuths)

    def silhouettes(vertices, faces):
        return renderer(vertices.expand(VIEWS, -1, -1), faces, mode="silhouettes")

    target = silhouettes(*teapot())
    start, faces = sphere()
    mean = neighbours(faces, len(start))
    moved = torch.zeros_like(start).requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.015)
    frames = []
    for step in range(given.steps):
        vertices = start + moved
        images = silhouettes(vertices, faces)
        both = (images * target).sum((1, 2))
        overlap = both / (images + target - images * target).sum((1, 2))
        rough = (moved - mean @ moved).square().sum()  # neighbours should move alike
        loss = (1 - overlap).mean() + 0.5 * rough
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 0:
            frames.append(torch.cat([target[0], images[0].detach()], 1))
    print(f"overlap {overlap.mean():.3f}")

    colours = torch.ones(VIEWS, len(faces), 1, 1, 1, 3)
    shaded = renderer(vertices.expand(VIEWS, -1, -1), faces, colours, mode="rgb").detach()
    write_gif(given.out, frames + [torch.cat([t.expand(3, -1, -1), s], 2) for t, s in zip(target, shaded)
                                   for _ in range(5)])


if __name__ == "__main__":
    main()
