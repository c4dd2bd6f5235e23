"""How fast a run is: counted between two log lines."""

import time
from collections.abc import Mapping


class Speed:
    """Counts steps, examples and tokens, and the time the loop waited for data, since `start()`.

    Args:
        flops_per_step: floating point operations that the model itself needs for a step (no recomputation).
        peak_flops: of all devices together, per second.
    """

    def __init__(self, flops_per_step: float | None = None, peak_flops: float | None = None) -> None:
        self.flops_per_step, self.peak_flops = flops_per_step, peak_flops
        self.seconds_per_step = 0.0  # of the last measurement
        self.start()

    def start(self) -> None:
        """Everything is counted from here on."""
        self._since = time.monotonic()
        self.steps = self.examples = 0
        self.tokens = self.waited = 0.0

    def measure(self) -> dict[str, float]:
        """Rates per second; `data_wait` and `mfu` (model FLOPs utilisation) in percent."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        if self.steps:
            self.seconds_per_step = seconds / self.steps
        rates = {
            "steps_per_second": self.steps / seconds,
            "examples_per_second": self.examples / seconds,
            "tokens_per_second": self.tokens / seconds,
            "data_wait": 100.0 * self.waited / seconds,
        }
        if self.flops_per_step and self.peak_flops:
            rates["mfu"] = 100.0 * self.flops_per_step * rates["steps_per_second"] / self.peak_flops
        return {name: float(f"{value:.5g}") for name, value in rates.items()}


def describe(speed: Mapping[str, float]) -> str:
    """For people."""
    parts = [f"{speed['examples_per_second']:,.1f} examples/s", f"{speed['tokens_per_second']:,.0f} tokens/s"]
    parts.append(f"{speed['data_wait']:.0f} % waiting for data")
    if "mfu" in speed:
        parts.append(f"{speed['mfu']:.1f} % MFU")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
