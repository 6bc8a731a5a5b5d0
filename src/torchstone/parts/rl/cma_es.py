"""CMA-ES (Hansen and Ostermeier 2001; Hansen 2016, arXiv:1604.00772) through the package `cma`, with a state.

Two habits of the package are held off. It seeds NumPy's global generator and draws from it, some of it even
where it is given another: here that generator has the search's own state while the package runs, and its own
again afterwards. Its stopping rules end a run after one generation of equal losses (`tolfun`), which a sparse
return begins with: here nobody asks them.
"""

import contextlib
import importlib
import importlib.util
import math
import warnings
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import BadInput


def import_cma() -> Any:
    """The package.

    Raises:
        BadInput: it is not installed.
    """
    try:
        return importlib.import_module("cma")
    except ModuleNotFoundError as error:
        raise BadInput("CMA-ES needs cma: pip install 'torchstone[rl]'") from error


def check_search(population: int, sigma: float) -> None:
    """
    Raises:
        BadInput: no search is possible with these.
    """
    if population < 2:
        raise BadInput(f"CMA-ES compares at least 2 candidates, not {population}")
    if not sigma > 0:
        raise BadInput(f"CMA-ES needs a positive sigma, not {sigma:g}")
    if importlib.util.find_spec("cma") is None:
        import_cma()


class CMAES:
    """Minimizes a function of a vector: `losses` of what `ask` gives are passed to `tell`.

    The package has no state that could be saved without code. But it is a function of the seed and the losses
    so far: these are the state, and loading it runs through them again.

    Args:
        mean: where the search begins.
        sigma: initial standard deviation.
        is_diagonal: adapt the variances alone, which learns faster in many dimensions.

    Raises:
        BadInput: `cma` is not installed; fewer than 2 candidates; a step size that is not positive.
    """

    def __init__(
        self,
        mean: Float[Tensor, " n"],
        sigma: float,
        population: int,
        *,
        seed: int,
        is_diagonal: bool = False,
    ):
        check_search(population, sigma)
        self.initial_mean = mean.detach().cpu().double().numpy()
        self.initial_sigma, self.population = sigma, population
        self.seed, self.is_diagonal = seed, is_diagonal
        self._begin()

    def _begin(self) -> None:
        cma = import_cma()
        options = {"popsize": self.population, "CMA_diagonal": self.is_diagonal, "verbose": -9}
        options["seed"] = math.nan  # it is set here
        self.numpy_state = np.random.RandomState(self.seed % 2**32).get_state()
        with self._own_generator():
            self.strategy = cma.CMAEvolutionStrategy(self.initial_mean, self.initial_sigma, options)
        self.losses: list[np.ndarray] = []
        self.candidates: list[np.ndarray] | None = None

    @contextlib.contextmanager
    def _own_generator(self) -> Generator[None]:
        """NumPy's global generator with the state of this search."""
        outside = np.random.get_state()
        np.random.set_state(self.numpy_state)
        try:
            yield
        finally:
            self.numpy_state = np.random.get_state()
            np.random.set_state(outside)

    @property
    def generation(self) -> int:
        """How many have been compared."""
        return len(self.losses)

    @property
    def mean(self) -> Float[Tensor, " n"]:
        """The mean of the next generation, the best guess of all."""
        return torch.from_numpy(np.array(self.strategy.mean)).float()

    @property
    def sigma(self) -> float:
        """Global step size."""
        return float(self.strategy.sigma)

    def ask(self) -> Float[Tensor, "population n"]:
        """Candidates of the next generation."""
        with self._own_generator():
            self.candidates = self.strategy.ask()
        return torch.from_numpy(np.stack(self.candidates)).float()

    def tell(self, losses: Float[Tensor, " population"]) -> None:
        """Adapt to the losses of the candidates of the last `ask`."""
        assert self.candidates is not None
        values = losses.detach().cpu().double().numpy()
        with self._own_generator(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of equal losses
            self.strategy.tell(self.candidates, values.tolist())
        self.losses.append(values)
        self.candidates = None

    def state_dict(self) -> dict[str, Any]:
        empty = np.empty((0, self.population))
        return {"losses": torch.from_numpy(np.stack(self.losses) if self.losses else empty)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin()
        for losses in state["losses"]:
            self.ask()
            self.tell(losses)
