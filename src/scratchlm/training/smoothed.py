"""`Smoothed`: the moving average of the loss, which the screen and the figures show."""

from __future__ import annotations


class Smoothed:
    """An exponential moving average that starts at the first value, not at 0.

        x̄_t = Σᵢ βᵗ⁻ⁱ xᵢ / Σᵢ βᵗ⁻ⁱ = m_t / (1 - βᵗ),   m_t = β m_{t-1} + (1 - β) x_t,   m_0 = 0

    This is Adam's bias correction (arXiv 1412.6980, section 3). The average covers about
    1 / (1 - β) values. A checkpoint stores `state()`, and `Smoothed(beta, state)` continues.
    """

    def __init__(self, beta: float = 0.98, state: dict[str, float] | None = None) -> None:
        if not 0 <= beta < 1:
            raise ValueError(
                f"beta must be at least 0 and below 1 ({beta}); choose 0 for no smoothing"
            )
        self.beta = beta
        self.total, self.weight = (0.0, 0.0) if state is None else (state["total"], state["weight"])

    def update(self, value: float) -> float:
        """Add `value` to the average and return the average."""
        self.total = self.beta * self.total + value
        self.weight = self.beta * self.weight + 1
        return self.total / self.weight

    def state(self) -> dict[str, float]:
        return {"total": self.total, "weight": self.weight}
