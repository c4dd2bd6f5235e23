"""What a quickstart shows at its end: one table on the terminal and one picture."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from metro_jax.quickstart.templates import HELD_OUT_FAMILY

PRETRAINING_LOSSES = {
    "generator_loss": "generator (masked LM)",
    "rtd_loss": "replaced token detection",
    "nll_loss": "corrective LM",
}
FINETUNING_LOSS = "loss"
Curve = Sequence[Mapping[str, float]]
Rows = Sequence[Mapping[str, Any]]


def losses_table(pretraining: Curve, finetuning: Curve) -> Table:
    """First and last losses, each the mean over one log period, in bits."""
    table = Table(title="Losses, in bits", title_justify="left")
    for name in ("stage", "loss"):
        table.add_column(name)
    for name in ("first", "last"):
        table.add_column(name, justify="right")
    for key, label in PRETRAINING_LOSSES.items():
        table.add_row("pretraining", label, f"{pretraining[0][key]:.3f}", f"{pretraining[-1][key]:.3f}")
    table.add_row(
        "finetuning", "answers", f"{finetuning[0][FINETUNING_LOSS]:.3f}", f"{finetuning[-1][FINETUNING_LOSS]:.3f}"
    )
    return table


def accuracy_table(rows: Rows) -> Table:
    """Accuracy per family and held-out template, beside chance."""
    table = Table(title="Zero-shot accuracy on prompts never trained on, in percent", title_justify="left")
    table.add_column("family")
    table.add_column("template")
    for name in ("examples", "accuracy", "chance"):
        table.add_column(name, justify="right")
    previous = None
    for row in rows:
        family = row["family"] + (" (family held out)" if row["family"] == HELD_OUT_FAMILY else "")
        if previous not in (None, family):
            table.add_section()
        cells = [row["template"], str(row["examples"]), f"{100 * row['accuracy']:.1f}", f"{100 * row['chance']:.1f}"]
        table.add_row("" if family == previous else family, *cells)
        previous = family
    return table


def files_table(folder: pathlib.Path, files: Mapping[str, str]) -> Table:
    """Where the results are."""
    table = Table(title=f"Files in {folder}", title_justify="left")
    table.add_column("path")
    table.add_column("what it is")
    for name, meaning in files.items():
        table.add_row(name, meaning)
    return table


def show(console: Console, *tables: Table) -> None:
    """The closing tables, one under the other."""
    for table in tables:
        console.print()
        console.print(table)


def plot(path: pathlib.Path, pretraining: Curve, finetuning: Curve, rows: Rows) -> None:
    """One picture: losses of the two training stages, and the accuracy of every held-out template beside chance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.15))
    upper, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    for key, label in PRETRAINING_LOSSES.items():
        upper.plot([entry["step"] for entry in pretraining], [entry[key] for entry in pretraining], label=label)
    upper.set(title="Pretraining on English prose", xlabel="step", ylabel="loss (bits)", ylim=(0, None))
    upper.legend()
    steps = [entry["step"] for entry in finetuning]
    lower.plot(steps, [entry[FINETUNING_LOSS] for entry in finetuning], color="tab:red", label="answers")
    lower.set(title="Prompt finetuning", xlabel="step", ylabel="loss (bits)", ylim=(0, None))
    lower.legend()
    _accuracies(figure.add_subplot(grid[:, 1]), rows)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    os.replace(partial, path)


def _accuracies(axes: Any, rows: Rows) -> None:
    families = list(dict.fromkeys(row["family"] for row in rows))
    for place, family in enumerate(families):
        own = [row for row in rows if row["family"] == family]
        chance = 100 * own[0]["chance"]
        colour = "tab:orange" if family == HELD_OUT_FAMILY else "tab:blue"
        axes.plot([chance, chance], [place - 0.35, place + 0.35], color="black", linestyle="--", linewidth=1.5)
        spread = [place + (i - (len(own) - 1) / 2) * 0.16 for i in range(len(own))]
        axes.scatter([100 * row["accuracy"] for row in own], spread, color=colour, s=42, zorder=3)
    handles = [
        axes.scatter([], [], color="tab:blue", s=42, label="held-out template"),
        axes.scatter([], [], color="tab:orange", s=42, label="template of the held-out family"),
        axes.plot([], [], color="black", linestyle="--", label="chance")[0],
    ]
    axes.set(title="Zero-shot accuracy, one dot per template", xlabel="accuracy (%)", xlim=(0, 102))
    axes.set_yticks(range(len(families)), [family.replace("_", " ") for family in families])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    # Below the axes: wherever it lay inside, it could hide a dot.
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
