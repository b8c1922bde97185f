"""The algebra of Kronecker-factored curvature: factors, damped inverses, quadratic forms.

The Fisher matrix of a linear map `D = [W | b]`, `[out, in + 1]`, is taken for `A (x) G`: the
second moment `A` of its inputs times that of the scores `G` at its outputs. A score is the
derivative of one sample's log-likelihood, neither averaged over the batch nor weighted. Nothing
here forms the product: `(A (x) G) vec(D)` is `G D A`.

K-FAC is arXiv 1503.05671, its form for convolutions (KFC) arXiv 1602.01407, the names *expand*
and *reduce* for layers that share their weights over positions are those of arXiv 2311.00636.
"""

import torch
from torch import Tensor, nn


def accumulate_(factor: Tensor, rows: Tensor, keep: float, weight: float) -> None:
    """`factor <- keep * factor + weight * rows^T rows`, in place.

    Args:
        factor: `[d, d]`.
        rows: `[n, d]`.
        keep: share of the old factor that stays.
        weight: of each row; a mean over samples has one over their number.
    """
    factor.addmm_(rows.T, rows, beta=keep, alpha=weight)


def with_one(rows: Tensor) -> Tensor:
    """Rows with the homogeneous coordinate 1 appended, `[n, d]` -> `[n, d + 1]`."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _padded(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """What the convolution slides over, `[B, C, H + 2 ph, W + 2 pw]`."""
    assert not isinstance(layer.padding, str)
    ph, pw = layer.padding
    return nn.functional.pad(images, (pw, pw, ph, ph)) if ph or pw else images


def patches(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """What each output position of a convolution sees, as a view without copies if unpadded.

    Args:
        images: `[B, C, H, W]`, inputs of the layer.
        layer: has one group and zeros as padding.

    Returns:
        `[B, H', W', kh, kw, C]`: the order of coordinates in `weight.permute(0, 2, 3, 1)`, which
        is that of memory where images lie channels-last.
    """
    (kh, kw), (dh, dw) = layer.kernel_size, layer.dilation
    windows = _padded(images, layer).movedim(1, 3)
    windows = windows.unfold(1, dh * (kh - 1) + 1, layer.stride[0])
    windows = windows.unfold(2, dw * (kw - 1) + 1, layer.stride[1])
    return windows[..., ::dh, ::dw].permute(0, 1, 2, 4, 5, 3)


def mean_patches(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """The mean over all output positions of what each sees, `patches(...).mean((1, 2))`.

    Pixel `(i, j)` of a patch is seen at the rows `i + stride h`, and likewise for columns: so it is
    a product with a selection of rows and one with a selection of columns.

    Args:
        images: `[B, C, H, W]`, inputs of the layer.
        layer: as for `patches`.

    Returns:
        `[B, kh, kw, C]`.
    """
    images = _padded(images, layer)
    rows, columns = (
        _selection(images, 2 + i, layer.kernel_size[i], layer.dilation[i], layer.stride[i])
        for i in range(2)
    )
    pixels = images.movedim(1, 3)  # [B, H, W, C]
    by_row = rows @ pixels.flatten(2)  # [B, kh, W C]
    mean: Tensor = columns @ by_row.view(*by_row.shape[:2], *pixels.shape[2:])
    return mean


def _selection(images: Tensor, side: int, kernel: int, dilation: int, stride: int) -> Tensor:
    """`[kernel, size]` for a side of the images: what each pixel adds to the mean of a patch's."""
    pixels = images.new_ones(images.shape[side]).diag()
    windows = pixels.unfold(0, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    return windows.mean(0).T


def eigenbasis(factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices that should have no negative ones.

    Args:
        factor: `[..., d, d]`.

    Returns:
        Values `[..., d]` ascending, the negative ones (by rounding) set to 0; vectors
        `[..., d, d]` in columns; the number of negative ones, `[...]` int64.

    Raises:
        torch.linalg.LinAlgError: the decomposition did not converge.
    """
    values, vectors = torch.linalg.eigh(factor)
    return values.clamp(min=0.0), vectors, (values < 0).sum(-1)


def precondition_exact(
    gradient: Tensor,
    a: tuple[Tensor, Tensor],
    g: tuple[Tensor, Tensor],
    damping: float,
) -> Tensor:
    """`(A (x) G + damping I)^-1` applied to a gradient, by the eigenvectors of the factors.

        U = Qg [(Qg^T D Qa) / (lg la^T + damping)] Qa^T

    Args:
        gradient: `D`, `[out, in]`.
        a: eigenvalues `la` `[in]` and eigenvectors `Qa` of `A`.
        g: eigenvalues `lg` `[out]` and eigenvectors `Qg` of `G`.
        damping: > 0.

    Returns:
        `[out, in]`.
    """
    (la, qa), (lg, qg) = a, g
    rotated = qg.T @ gradient @ qa
    rotated.div_(torch.outer(lg, la).add_(damping))
    return qg @ rotated @ qa.T


def factored_damping(a: Tensor, g: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """How much to add to the diagonals of `A` and of `G` (K-FAC, section 6.3).

        pi = sqrt((tr A / dim A) / (tr G / dim G));   pi sqrt(damping), sqrt(damping) / pi

    Where a trace vanishes, `pi` is 1.

    Returns:
        Two scalars.
    """
    mean_a, mean_g = a.diagonal().mean(), g.diagonal().mean()
    both = (mean_a > 0) & (mean_g > 0)
    pi = torch.where(both, mean_a.sqrt() / torch.where(both, mean_g, 1.0).sqrt(), 1.0)
    return pi * damping**0.5, damping**0.5 / pi


def damped_inverse(factor: Tensor, damping: Tensor) -> Tensor:
    """`(factor + damping I)^-1` by Cholesky, `[..., d, d]`.

    Args:
        factor: `[..., d, d]`.
        damping: `[...]`.

    Raises:
        torch.linalg.LinAlgError: the damped factor is not positive definite.
    """
    damped = factor.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(damping.unsqueeze(-1))
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def precondition_factored(gradient: Tensor, a_inverse: Tensor, g_inverse: Tensor) -> Tensor:
    """`(A + eps_a I)^-1 (x) (G + eps_g I)^-1` applied to a gradient, `[out, in]`."""
    return g_inverse @ gradient @ a_inverse


def quadratic_form(matrix: Tensor, a: Tensor, g: Tensor) -> Tensor:
    """`vec(D)^T (A (x) G) vec(D)`: twice the KL that a step `D` causes, to second order."""
    return torch.sum(matrix * (g @ matrix @ a))


def largest_eigenvalue(matrix: Tensor, iterations: int = 10) -> Tensor:
    """Largest eigenvalue of a symmetric positive matrix, by power iteration; a scalar.

    It starts at random (the same every time): a start told by the matrix, as its diagonal, can
    lie in the kernel, as it does for the scores of a uniform softmax.
    """
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), generator=generator, dtype=torch.float64).to(matrix)
    for _ in range(iterations):
        vector = nn.functional.normalize(matrix @ vector, dim=0)
    return vector @ matrix @ vector
