"""Plots for papers: one dot per template, a mark at the median, and what the numbers are to be compared with."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("pdf", "png")
TITLES = {
    "rte": "RTE", "cb": "CB", "anli_r1": "ANLI R1", "anli_r2": "ANLI R2", "anli_r3": "ANLI R3", "wsc": "WSC",
    "winogrande": "Winogrande", "copa": "COPA", "story_cloze": "StoryCloze", "hellaswag": "HellaSwag", "wic": "WiC",
}  # fmt: skip
STYLE: Any = {
    "font.family": "serif", "font.size": 8, "axes.titlesize": 9, "axes.linewidth": 0.6, "xtick.labelsize": 8,
    "ytick.labelsize": 7, "pdf.fonttype": 42, "savefig.dpi": 300, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
WIDTH = 6.3  # inches, the text width of the ACL's style


def missing() -> str | None:
    """Why there can be no plots, or None."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "no plots: they need matplotlib (pip install 'metro_jax[eval]')"
    return None


def tasks(path: pathlib.Path, summaries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[pathlib.Path]:
    """One panel per task, one column of dots per result; PDF and PNG.

    Args:
        path: without suffix.
        summaries: results.json of each.
    """
    from matplotlib import pyplot as plt

    _settle()
    rows = [row for row in summaries[0]["tasks"] if any(_own(s, row["task"])["templates_done"] for s in summaries)]
    count = min(4, len(rows))
    height = -(-len(rows) // count)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(height, count, figsize=(WIDTH, 1.55 * height + 0.55), squeeze=False)
        axes = list(grid.flat)
        for axis, row in zip(axes, rows, strict=False):
            _panel(axis, row["task"], summaries)
        for axis in axes[len(rows) :]:
            axis.axis("off")
        for axis in grid[:, 0]:
            axis.set_ylabel("accuracy (%)")
        _legend(figure, summaries, names)
        figure.tight_layout(rect=(0, 0.55 / (1.55 * height + 0.55), 1, 1), h_pad=0.8, w_pad=0.6)
        return _save(figure, path)


def _settle() -> None:
    import matplotlib

    matplotlib.use("Agg")


def _own(summary: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    return next(row for row in summary["tasks"] if row["task"] == task)


def _panel(axis: Any, task: str, summaries: Sequence[Mapping[str, Any]]) -> None:
    import numpy as np

    title = TITLES.get(task, task)
    chances = []
    for place, summary in enumerate(summaries):
        row = _own(summary, task)
        values = [entry["accuracy"] for entry in row["templates"] if "accuracy" in entry]
        chances += [entry["chance"] for entry in row["templates"] if "chance" in entry]
        if not values:
            continue
        # Sorted values fan out evenly, so that equal ones can be told apart.
        offsets = np.linspace(-0.22, 0.22, len(values))[np.argsort(np.random.default_rng(0).random(len(values)))]
        colour = COLOURS[place % len(COLOURS)]
        axis.scatter(place + offsets, values, s=9, color=colour, alpha=0.65, linewidths=0, zorder=3)
        axis.plot([place - 0.32, place + 0.32], [row["median"]] * 2, color=colour, linewidth=1.6, zorder=4)
        if row.get("published") is not None:
            axis.plot(place + 0.42, row["published"], marker="D", markersize=3.2, color="black", zorder=5)
    if chances:
        axis.axhline(sum(chances) / len(chances), color="0.45", linestyle=(0, (4, 2)), linewidth=0.8, zorder=1)
    seen = [bool(_own(summary, task).get("seen_in_training")) for summary in summaries]
    axis.set_title(f"{title}{' †' if any(seen) else ''}", style="italic" if all(seen) else "normal")
    axis.set_xlim(-0.65, len(summaries) - 0.35)
    axis.set_xticks([])
    axis.grid(axis="y", linewidth=0.3, alpha=0.6)
    low, high = axis.get_ylim()
    if high - low < 10:  # otherwise noise fills the panel
        middle = (low + high) / 2
        axis.set_ylim(max(0, middle - 5), min(100, max(0, middle - 5) + 10))


def _legend(figure: Any, summaries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], marker="o", markersize=3.5, linewidth=1.6, label=name)
        for n, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color="0.45", linestyle=(0, (4, 2)), linewidth=0.8, label="chance"))
    if any(summary.get("published") for summary in summaries):
        line = Line2D([], [], color="black", marker="D", markersize=3.2, linestyle="none", label="published mean")
        handles.append(line)
    note = "one dot per template, bar: median"
    if any(row.get("seen_in_training") for summary in summaries for row in summary["tasks"]):
        note += "; †: seen in training" + (" by at least one" if len(summaries) > 1 else "")
    figure.legend(
        handles=handles, loc="lower center", ncols=min(4, len(handles)), frameon=False, title=note, title_fontsize=8
    )


def subjects(path: pathlib.Path, summary: Mapping[str, Any]) -> list[pathlib.Path]:
    """MMLU: the accuracy of every subject with its interval, the best on top, beside chance; PDF and PNG."""
    from matplotlib import pyplot as plt

    _settle()
    rows = sorted(summary["subjects"], key=lambda row: row["accuracy"])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH, 0.125 * len(rows) + 1.1), layout="constrained")
        places = range(len(rows))
        values = [row["accuracy"] for row in rows]
        low = [row["accuracy"] - row["interval"][0] for row in rows]
        high = [row["interval"][1] - row["accuracy"] for row in rows]
        axis.errorbar(
            values, places, xerr=[low, high], fmt="o", markersize=2.6, linewidth=0.7, color=COLOURS[0], clip_on=False
        )
        axis.axvline(summary["chance"], color="0.45", linestyle=(0, (4, 2)), linewidth=0.8, label="chance")
        mean = summary["mean_over_subjects"]
        axis.axvline(mean, color=COLOURS[1], linewidth=1.0, label=f"mean of {len(rows)} subjects: {mean:.1f}")
        axis.set_yticks(list(places), [row["subject"].replace("_", " ") for row in rows], fontsize=6)
        axis.set(xlabel="accuracy (%)", xlim=(0, 100), ylim=(-0.8, len(rows) - 0.2), title=summary["title"])
        axis.grid(axis="x", linewidth=0.3, alpha=0.6)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return _save(figure, path)


def _save(figure: Any, path: pathlib.Path) -> list[pathlib.Path]:
    from matplotlib import pyplot as plt

    files = [path.with_name(f"{path.name}.{kind}") for kind in FORMATS]
    for file in files:
        figure.savefig(file)
    plt.close(figure)
    return files
