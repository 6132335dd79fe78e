import torch

from diptych.towers.positions import resize_positions


def test_the_trained_grid_is_left_alone() -> None:
    positions = torch.randn(1 + 16, 8)
    assert resize_positions(positions, 4, (4, 4)) is positions


def test_rows_follow_the_grid_and_the_first_stays() -> None:
    """A ramp along one axis stays one, whatever the size, and doesn't leak into the other axis."""
    down = torch.linspace(0, 1, 8)[:, None].expand(8, 8)
    right = down.T
    square = torch.stack([down, right, torch.ones(8, 8)], dim=-1).reshape(64, 3)
    positions = torch.cat([torch.tensor([[7.0, 8.0, 9.0]]), square])
    resized = resize_positions(positions, 8, (6, 12))
    assert torch.equal(resized[0], positions[0])
    grid = resized[1:].view(6, 12, 3)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all() and (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    torch.testing.assert_close(grid[..., 0], grid[:, :1, 0].expand(6, 12))
    torch.testing.assert_close(grid[..., 1], grid[:1, :, 1].expand(6, 12))
    torch.testing.assert_close(grid[..., 2], torch.ones(6, 12))


def test_gradients_reach_every_position() -> None:
    positions = torch.randn(1 + 16, 4, dtype=torch.float64, requires_grad=True)
    resize_positions(positions, 4, (3, 3)).square().sum().backward()
    assert positions.grad is not None and (positions.grad != 0).all()
