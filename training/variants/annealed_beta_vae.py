"""The beta-VAE with an annealed capacity: Burgess et al. 2018, "Understanding disentangling in beta-VAE".

The batch's mean KL is held to C, as the authors' disentanglement_lib does, not each row's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from training import parallel
from training.autoencoder import Clock, Options
from training.errors import ConfigError
from training.variants.vae import Vae, VaeOptions

_DEFAULT_SHARE = 0.5  # of the training's steps


class AnnealedBetaVaeOptions(VaeOptions):
    # The paper's 1000, 25 nats and 100,000 steps are for dSprites; a short training with them learns only C.
    gamma: Annotated[float, Field(gt=0, allow_inf_nan=False, description="weight of |KL - C|")] = 5.0
    capacity_from: Annotated[float, Field(ge=0, allow_inf_nan=False, description="C at the first step, in nats")] = 0.0
    capacity_to: Annotated[float, Field(ge=0, allow_inf_nan=False, description="C at the end, in nats")] = 10.0
    capacity_steps: Annotated[
        int | None,
        Field(ge=1, description="gradient steps that C takes; not set: half of the training's"),
    ] = None

    @model_validator(mode="after")
    def _capacity_rises(self) -> AnnealedBetaVaeOptions:
        if self.capacity_to < self.capacity_from:
            raise ValueError(f"C must not fall, from capacity_from {self.capacity_from:g} to {self.capacity_to:g}")
        return self


class AnnealedBetaVae(Vae):
    """A VAE whose embedding may say C nats of its row, C growing: the factors that matter most come first."""

    variant: ClassVar[str] = "annealed_beta_vae"
    summary: ClassVar[str] = "a VAE that is given its capacity little by little: ordered, separate factors"
    objective: ClassVar[str] = (
        "mean over rows of -E_q[log p(x | z)] + gamma |mean over rows of KL(q(z | x) || N(0, I)) - C(t)|"
    )
    options_class: ClassVar[type[Options]] = AnnealedBetaVaeOptions

    options: AnnealedBetaVaeOptions

    def capacity(self, clock: Clock) -> float:
        """C(t), in nats: linear from capacity_from to capacity_to, then constant."""
        low, high = self.options.capacity_from, self.options.capacity_to
        return low + (high - low) * self._arrived(clock)

    def _arrived(self, clock: Clock) -> float:
        """The share of C's way that is done."""
        steps = self.options.capacity_steps
        return min(1.0, clock.progress / _DEFAULT_SHARE if steps is None else clock.step / steps)

    def settled(self, clock: Clock) -> bool:
        return self._arrived(clock) == 1

    def penalty(self, kl: Tensor, clock: Clock) -> dict[str, Tensor]:
        self._check_steps(clock)
        gap = (parallel.mean(kl) - self.capacity(clock)).abs()
        return {"capacity_gap_nats_per_row": self.options.gamma * gap}

    def _check_steps(self, clock: Clock) -> None:
        """Raises ConfigError at the first steps of a training that ends before C arrives."""
        steps, all_steps = self.options.capacity_steps, round(clock.step / (clock.progress or 1))
        if steps and 0 < all_steps < steps:
            raise ConfigError(
                f"option 'capacity_steps': C would never arrive: this training has {all_steps:,} gradient steps, "
                f"not {steps:,}; take fewer capacity_steps or more --epochs"
            )

    def facts(self) -> dict[str, str]:
        steps = self.options.capacity_steps
        schedule = "half of the training's steps" if steps is None else f"{steps:,} steps"
        low, high = self.options.capacity_from, self.options.capacity_to
        return {**super().facts(), "C(t)": f"linear from {low:g} to {high:g} nats over {schedule}, then constant"}

    def monitor(self, rows: Tensor, clock: Clock) -> dict[str, float | list[float]]:
        return {**super().monitor(rows, clock), "capacity_nats": self.capacity(clock), "gamma": self.options.gamma}
