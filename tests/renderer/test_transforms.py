"""torch.func, second derivatives and forward mode: they are right, or raise an error."""
import neural_renderer as nr
import pytest
import torch
from solids import icosphere
from torch.autograd import forward_ad

VERTICES, FACES = (torch.tensor(v) for v in icosphere(1, 0.6))
CAMERA = nr.Renderer(12, camera_mode="look_at", light_direction=(0.3, 0.7, -0.4))
WEIGHT = torch.linspace(-1, 1, 12, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
TEXTURES = {"cubes": torch.rand(1, len(FACES), 2, 2, 2, 3, generator=GENERATOR, dtype=torch.float64),
            "colours": torch.rand(1, len(VERTICES), 3, generator=GENERATOR, dtype=torch.float64)}


def loss(vertices, textures):
    rgb, depth, alpha = CAMERA(vertices[None], FACES, textures)
    return ((rgb.sum(1) + depth + 2 * alpha) * WEIGHT).square().sum()


def batch():
    return torch.stack([VERTICES, VERTICES * torch.tensor([0.8, 1.1, 0.9]), VERTICES + 0.1])


@pytest.mark.parametrize("kind", TEXTURES)
def test_grad_and_vjp_are_backward(kind, each_backend):
    leaf, texture = VERTICES.clone().requires_grad_(), TEXTURES[kind].clone().requires_grad_()
    known = torch.autograd.grad(loss(leaf, texture), (leaf, texture))
    found = torch.func.grad(loss, argnums=(0, 1))(VERTICES, TEXTURES[kind])
    value, pull = torch.func.vjp(loss, VERTICES, TEXTURES[kind])
    for other in (found, pull(torch.ones_like(value))):
        for a, b in zip(other, known):
            assert torch.equal(a, b) and b.abs().max() > 0


@pytest.mark.parametrize("kind", TEXTURES)
def test_vmap_is_a_loop(kind, each_backend):
    meshes = batch()
    found = torch.func.vmap(lambda v: CAMERA(v[None], FACES, TEXTURES[kind]))(meshes)
    for images, known in zip(found, zip(*(CAMERA(v[None], FACES, TEXTURES[kind]) for v in meshes))):
        assert torch.equal(images, torch.stack(known))
    gradients = torch.func.vmap(torch.func.grad(lambda v: loss(v, TEXTURES[kind])))(meshes)
    known = torch.stack([torch.func.grad(lambda v: loss(v, TEXTURES[kind]))(v) for v in meshes])
    torch.testing.assert_close(gradients, known, rtol=1e-12, atol=1e-12)


def test_vmap_over_other_dimensions_faces_and_in_a_jacobian():
    meshes, faces = batch(), torch.stack([FACES, FACES.roll(1, 1), FACES.flip(0)])

    def silhouette(vertices, faces):
        return CAMERA(vertices[None], faces, mode="silhouettes")[0]

    found = torch.func.vmap(silhouette, in_dims=(1, 0))(meshes.movedim(0, 1), faces)
    assert torch.equal(found, torch.stack([silhouette(v, f) for v, f in zip(meshes, faces)]))
    with pytest.raises(IndexError, match="faces"):
        torch.func.vmap(silhouette)(meshes, faces + 1)
    rows = torch.func.jacrev(lambda v: silhouette(v, FACES)[5])(VERTICES)
    assert rows.shape == (12, *VERTICES.shape)
    leaf = VERTICES.clone().requires_grad_()
    one, = torch.autograd.grad(silhouette(leaf, FACES)[5, 3], leaf)
    torch.testing.assert_close(rows[3], one, rtol=1e-12, atol=1e-12)
    assert torch.func.vmap(lambda v: CAMERA.render_face_index(v[None], FACES)[0])(meshes).shape == (3, 12, 12)


def test_forward_mode_is_refused(each_backend):
    """Without the check the derivative would silently be zero."""
    scaled = lambda s: CAMERA.render_rgb(VERTICES[None], FACES, s * TEXTURES["cubes"]).sum()  # noqa: E731
    one = torch.ones((), dtype=torch.float64)
    for call in (lambda: torch.func.jvp(scaled, (one,), (one,)), lambda: torch.func.jacfwd(scaled)(one),
                 lambda: torch.func.hessian(scaled)(one),
                 lambda: torch.func.jvp(lambda v: loss(v, None), (VERTICES,), (VERTICES,))):
        with pytest.raises(RuntimeError, match="no forward-mode derivative .*use reverse mode"):
            call()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode"):
        scaled(forward_ad.make_dual(one, one))
    assert float(torch.func.grad(scaled)(one)) == pytest.approx(float(scaled(one)), rel=1e-9)


def test_second_derivatives_are_refused(each_backend):
    leaf = VERTICES.clone().requires_grad_()
    gradient, = torch.autograd.grad(loss(leaf, None), leaf, create_graph=True)
    first = torch.autograd.grad(loss(leaf, None), leaf)[0]
    assert torch.equal(gradient.detach(), first)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.square().sum().backward()


def test_voxels_are_refused_inside_of_transforms():
    from voxelization import voxelize
    with pytest.raises(RuntimeError, match="voxelization does not work inside of torch.func's transforms"):
        torch.func.vmap(lambda v: voxelize(nr.vertices_to_faces(v[None], FACES), 8))(batch())


WINGS = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])


def test_smoothness(each_backend):
    meshes = batch()
    known = nr.smoothness(meshes, WINGS)
    one = lambda v: nr.smoothness(v[None], WINGS)[0]  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(one)(meshes), known)
    gradients = torch.func.vmap(torch.func.grad(one))(meshes)
    leaf = meshes.clone().requires_grad_()
    nr.smoothness(leaf, WINGS).sum().backward()
    torch.testing.assert_close(gradients, leaf.grad)


def test_what_the_kernel_of_smoothness_refuses():
    one = lambda v: nr.smoothness(v[None], WINGS)[0]  # noqa: E731
    with pytest.raises(RuntimeError, match="smoothness has no forward-mode"):
        torch.func.jvp(one, (VERTICES,), (VERTICES,))
    leaf = VERTICES.clone().requires_grad_()
    gradient, = torch.autograd.grad(one(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        (gradient.square().sum() + leaf.sum()).backward()
