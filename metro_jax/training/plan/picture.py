"""Memory and traffic of a plan as a picture."""

from typing import Any

from metro_jax.training.plan.collectives import by_kind
from metro_jax.training.plan.estimate import breakdown
from metro_jax.training.plan.recipe import describe_mesh
from metro_jax.training.plan.report import Plan, size
from metro_jax.training.plan.topology import GIB

# Colours that differ in lightness too (Okabe and Ito's palette).
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#999999")


def draw(plan: Plan, path: str) -> None:
    """Two panels: what fills a device's memory, and what a step's time and traffic consist of."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), width_ratios=(1, 1.35), layout="constrained")
    mesh = plan.step.partitioner.mesh
    figure.suptitle(f"{plan.recipe}, {plan.step.kind} step on {plan.topology.name}: {describe_mesh(mesh)}")
    _memory(left, plan)
    _time(right, plan)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _memory(axes: Any, plan: Plan) -> None:
    assert plan.compiled is not None
    parts = {name: value for name, value in breakdown(plan.step, plan.compiled).items() if name != "peak"}
    bottom = 0.0
    for (name, value), colour in zip(parts.items(), COLOURS, strict=False):
        height = value / GIB
        axes.bar(0, height, bottom=bottom, width=0.5, color=colour, label=f"{name}: {height:.2f} GiB")
        bottom += height
    if plan.limit:
        axes.axhline(plan.limit / GIB, color="black", linestyle="--")
        axes.annotate(f"limit {plan.limit / GIB:.2f} GiB", (0.3, plan.limit / GIB), va="bottom", ha="left", fontsize=9)
        axes.set_ylim(0, 1.1 * max(plan.limit / GIB, bottom))
    axes.set_xlim(-0.5, 0.9)
    axes.set_xticks([])
    axes.set_ylabel("GiB per device")
    axes.set_title("Memory at the fullest moment")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=9, frameon=False)


def _time(axes: Any, plan: Plan) -> None:
    made = plan.estimate
    if made is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "rates of these devices are not known", ha="center")
        return
    bars = [
        (
            f"matrix products, {plan.step.flops / plan.step.partitioner.mesh.size / 1e12:.1f} TFLOP",
            made.product_seconds,
        ),
        (f"other operations, {size(made.other_bytes)}", made.other_seconds),
    ]
    sent = sum(c.sent_per_step for c in plan.collectives)
    for (kind, where), entry in list(by_kind(plan.collectives).items())[:4]:
        share = entry["sent"] / sent if sent else 0.0
        label = f"{kind} over {'+'.join(where) or 'a part'}, {size(entry['sent'])}"
        bars.append((label, share * made.communication_seconds))
    colours = [COLOURS[0], COLOURS[1], *[COLOURS[3]] * (len(bars) - 2)]
    axes.barh(range(len(bars)), [1e3 * seconds for _, seconds in bars], color=colours)
    for row, (_, seconds) in enumerate(bars):
        axes.annotate(f" {1e3 * seconds:.1f} ms", (1e3 * seconds, row), va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("ms per step and device, by the roofline estimate")
    axes.set_title("Where a step's time goes (an estimate, not a measurement)")
