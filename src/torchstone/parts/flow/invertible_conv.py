"""The invertible 1 × 1 convolution: a learned mixture of channels with its log-determinant.

Kingma and Dhariwal 2018 (Glow, arXiv:1807.03039), section 3.2. Between couplings it replaces a fixed
permutation of the channels. Each of the h × w pixels is multiplied by the same square matrix:

    z_ij = W x_ij,    log |det ∂z/∂x| = h · w · log |det W|                        (equation 9)
    W = P L (U + diag(s)),    log |det W| = Σ log |s|                              (equations 10 and 11)

W starts as a random rotation. In the second form P (a permutation) and the signs of s stay as they were
then; L is unit lower triangular, U strictly upper triangular. Its determinant costs c instead of c³
operations, and W cannot become singular.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Images = Float[Tensor, "batch channel height width"]
Matrix = Float[Tensor, "channel channel"]
LogDet = Float[Tensor, " batch"]


class InvertibleConv1x1(nn.Module):
    """z_ij = W x_ij. Both forms have channels² parameters, and multiply in full precision under autocast.

    Args:
        use_lu: learn L, U and log |s|, packed into one matrix as LAPACK does (L below the diagonal, log |s|
            on it, U above), instead of W itself.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, use_lu: bool = True):
        super().__init__()
        self.use_lu = use_lu
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        if not use_lu:
            self.weight = nn.Parameter(rotation)
            return
        permutation, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        packed = lower.tril(-1) + upper.triu(1) + s.abs().log().diag()
        self.factors = nn.Parameter(packed)
        self.register_buffer("permutation", permutation.argmax(1))  # (P y)_i = y_permutation[i]
        self.register_buffer("sign", s.sign())

    def lower_upper(self) -> tuple[Matrix, Matrix]:
        """L, and U + diag(s)."""
        one = torch.ones_like(self.sign).diag()
        s = self.sign * self.factors.diagonal().exp()
        return self.factors.tril(-1) + one, self.factors.triu(1) + s.diag()

    def matrix(self) -> Matrix:
        """W."""
        if not self.use_lu:
            return self.weight
        lower, upper = self.lower_upper()
        return (lower @ upper)[self.permutation]

    def inverse_matrix(self) -> Matrix:
        if not self.use_lu:
            return torch.linalg.inv(self.weight)
        lower, upper = self.lower_upper()
        one = torch.ones_like(self.sign).diag()
        inverse = torch.linalg.solve_triangular(lower, one, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, inverse, upper=True)[:, self.permutation]

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, self.matrix()[:, :, None, None]), self.log_det(x)

    def inverse(self, z: Images) -> tuple[Images, LogDet]:
        with torch.autocast(z.device.type, enabled=False):
            return F.conv2d(z, self.inverse_matrix()[:, :, None, None]), -self.log_det(z)

    def log_det(self, x: Images) -> LogDet:
        each = self.factors.diagonal().sum() if self.use_lu else torch.linalg.slogdet(self.weight)[1]
        return (each * (x.shape[2] * x.shape[3])).expand(len(x))


class HalvesConv1x1(nn.Module):
    """A plain matrix W for each half of the channels. Both start as the identity with normal noise (as
    in the code published with Ho et al. 2019, arXiv:1902.00275).

    Args:
        std: of that noise.
    """

    def __init__(self, channels: int, std: float):
        super().__init__()
        half = channels // 2
        self.weight = nn.Parameter(torch.eye(half) + std * torch.randn(2, half, half))

    def forward(self, x: Images) -> tuple[Images, LogDet]:
        return self.multiply(self.weight, x), self.log_det(x)

    def inverse(self, z: Images) -> tuple[Images, LogDet]:
        return self.multiply(torch.linalg.inv(self.weight), z), -self.log_det(z)

    def multiply(self, matrices: Float[Tensor, "two half half"], x: Images) -> Images:
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, matrices.flatten(0, 1)[:, :, None, None], groups=2)

    def log_det(self, x: Images) -> LogDet:
        each = torch.linalg.slogdet(self.weight)[1].sum()
        return (each * (x.shape[2] * x.shape[3])).expand(len(x))
