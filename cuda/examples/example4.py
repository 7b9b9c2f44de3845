"""Find the camera of a picture: the picture on the left, the search on the right."""
import torch

import neural_renderer as nr
from common import options, teapot, write_gif


def main():
    given = options(__doc__, "example4.gif", steps=120, size=128)
    vertices, faces = teapot()
    renderer = nr.Renderer(image_size=given.size, camera_mode="look_at", viewing_angle=22,
                           light_direction=(0.4, 0.8, -0.4))

    def draw(eye):
        renderer.eye = eye
        rgb, _, alpha = renderer(vertices[None], faces[None])
        return rgb[0], alpha[0]

    hidden = torch.tensor(nr.get_points_from_angles(3.6, 30, 30))
    with torch.no_grad():
        picture, silhouette = draw(hidden)
    eye = torch.tensor(nr.get_points_from_angles(5.0, 5, 0), requires_grad=True)
    optimizer = torch.optim.Adam([eye], lr=0.05)
    frames = []
    for _ in range(given.steps):
        rgb, alpha = draw(eye)
        loss = (alpha - silhouette).square().mean() + (rgb - picture).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        frames.append(torch.cat([picture, rgb.detach()], 2))
    print(f"eye {[round(x, 2) for x in eye.tolist()]}, of the picture {[round(x, 2) for x in hidden.tolist()]}")
    write_gif(given.out, frames[::2])


if __name__ == "__main__":
    main()
