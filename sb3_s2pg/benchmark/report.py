"""What came out: pictures, one HTML page that needs no other file, and a JSON with everything."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sb3_s2pg.benchmark.algorithms import Contestant
from sb3_s2pg.benchmark.grid import write_atomically
from sb3_s2pg.benchmark.runs import Run, machine, slug
from sb3_s2pg.benchmark.statistics import (
    interquartile_curves,
    interquartile_means,
    normalized,
    probabilities_of_improvement,
)
from sb3_s2pg.common.callbacks import plot_internal_states

X_LABELS = {"steps": "environment steps", "seconds": "seconds of training"}
# Column of the cost table: key of a result, factor and digits
COSTS = {
    "steps": ("trained_steps", 0),
    "seconds": ("seconds", 1),
    "processor seconds": ("cpu_seconds", 1),
    "steps per second": ("steps_per_second", 0),
    "updates": ("updates", 0),
    "ms per update": ("update_ms", 2),
    "processor ms per update": ("update_cpu_ms", 2),
    "peak memory, MB": ("peak_memory_mb", 0),
    "of it imports, MB": ("imports_memory_mb", 0),
}
# What a learning curve says about a point
REACHED = ("steps", "seconds", "cpu_seconds")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% } .died { color: #b00 }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto }
"""
Results = dict[str, list[dict[str, Any]]]


def by_label(results: Sequence[dict[str, Any]], env: str, labels: Sequence[str]) -> Results:
    """
    :param results: Results of runs
    :param env: Id of a task
    :param labels: Algorithms, in their order
    :return: Those of the task, by algorithm; without algorithms of which nothing is finished
    """
    found = {label: [result for result in results if (result["env"], result["label"]) == (env, label)] for label in labels}
    return {label: ours for label, ours in found.items() if ours}


def curves_of(results: Results) -> dict[str, np.ndarray]:
    """
    :param results: Results of a task, by algorithm
    :return: Interquartile mean of the return over the steps and its interval, shape (3, points); nothing for algorithms of
        which a run is too short for a point
    """
    returns = {}
    for label, ours in results.items():
        n_points = min(len(result["curve"]["steps"]) for result in ours)
        if n_points > 0:
            returns[label] = np.array([result["curve"]["returns"][:n_points] for result in ours])
    return interquartile_curves(returns)


def plot_curves(results: Results, curves: dict[str, np.ndarray], title: str, x: str) -> Figure:
    """
    :param results: Results of a task, by algorithm
    :param curves: Their curves
    :param title: Title of the picture
    :param x: "steps" or "seconds"
    :return: Interquartile mean of the return and its interval, thin lines for the seeds
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (label, (middle, low, high)) in enumerate(curves.items()):
        ours, color = results[label], f"C{number}"
        for result in ours:
            axes.plot(result["curve"][x], result["curve"]["returns"], color=color, alpha=0.25, linewidth=0.8)
        where = np.mean([result["curve"][x][: len(middle)] for result in ours], axis=0)
        # A line through a single point would be invisible
        axes.plot(where, middle, color=color, linewidth=2.2, marker="o" if len(where) == 1 else None, label=label)
        axes.fill_between(where, low, high, color=color, alpha=0.18, linewidth=0)
    axes.set(xlabel=X_LABELS[x], ylabel="return (deterministic)", title=title)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    return figure


def first_reached(result: dict[str, Any], threshold: float) -> dict[str, float] | None:
    """
    :param result: Result of a run
    :param threshold: A return
    :return: Steps and times of the first point of its learning curve that is at least as high; None if there is none
    """
    curve = result["curve"]
    for number, value in enumerate(curve["returns"]):
        if value >= threshold:
            return {key: curve[key][number] for key in REACHED}
    return None


def statistics_of(results: Results, threshold: float | None) -> dict[str, Any]:
    """
    :param results: Results of a task, by algorithm
    :param threshold: A return, None if nobody has asked when it is reached
    :return: Statistics of the final returns, when the threshold was reached, and costs
    """
    scores = {label: np.array([[result["mean_return"]] for result in ours]) for label, ours in results.items()}
    return {
        "return": {
            label: {
                "interquartile_mean": estimate._asdict(),
                "mean": float(np.mean(scores[label])),
                "seeds": {str(result["seed"]): result["mean_return"] for result in results[label]},
            }
            for label, estimate in interquartile_means(scores).items()
        },
        "probability_of_improvement": improvements(scores),
        "reached": {}
        if threshold is None
        else {
            label: {str(result["seed"]): first_reached(result, threshold) for result in ours}
            for label, ours in results.items()
        },
        "cost": {
            label: {
                key: float(np.mean(values))
                if (values := [result[key] for result in ours if result[key] is not None])
                else None
                for key, _ in COSTS.values()
            }
            for label, ours in results.items()
        },
    }


def improvements(scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """
    :param scores: Scores by algorithm, shape (runs, tasks)
    :return: Probability of improvement of every algorithm over every other one
    """
    return [
        {"of": first, "over": second, **estimate._asdict()}
        for (first, second), estimate in probabilities_of_improvement(scores).items()
    ]


def statistics_over_tasks(results: Sequence[dict[str, Any]], labels: Sequence[str], envs: Sequence[str]) -> dict[str, Any]:
    """
    :param results: Results of runs
    :param labels: Algorithms
    :param envs: Tasks, more than one
    :return: Statistics of the final returns over all tasks, normalized; of the seeds that are finished on every task
    """
    returns = {(result["label"], result["env"], result["seed"]): result["mean_return"] for result in results}
    scores = {}
    for label in labels:
        seeds = sorted({seed for of, _, seed in returns if of == label})
        complete = [seed for seed in seeds if all((label, env, seed) in returns for env in envs)]
        if complete:
            scores[label] = np.array([[returns[label, env, seed] for env in envs] for seed in complete])
    if not scores:
        return {}
    comparable = normalized(scores)
    return {
        "interquartile_mean": {label: estimate._asdict() for label, estimate in interquartile_means(comparable).items()},
        "probability_of_improvement": improvements(comparable),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    :param head: Names of the columns
    :param rows: Cells
    :return: An HTML table
    """
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def picture(figure: Figure, path: Path, about: str) -> str:
    """
    :param figure: A picture
    :param path: Where to write it
    :param about: What it shows
    :return: The same as HTML, with the picture in it
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    path.write_bytes(buffer.getvalue())
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(about)}" src="data:image/png;base64,{encoded}">'


def interval(estimate: dict[str, float], digits: int) -> str:
    """
    :param estimate: An ``Estimate``, as a dictionary
    :param digits: Number of digits
    :return: Its interval, in words
    """
    return f"{estimate['low']:.{digits}f} to {estimate['high']:.{digits}f}"


def improvement_table(pairs: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """
    :param pairs: Probabilities of improvement
    :param labels: Algorithms
    :return: The probability that the row is better than the column, with its interval
    """
    cells = {(pair["of"], pair["over"]): f"{pair['value']:.2f} ({interval(pair, 2)})" for pair in pairs}
    return table(["better than", *labels], [[row, *(cells.get((row, column), "") for column in labels)] for row in labels])


def reached_table(reached: dict[str, dict[str, Any]], threshold: float) -> str:
    """
    :param reached: When the threshold was reached, by algorithm and seed
    :param threshold: A return
    :return: Steps and times, their mean only where every seed has reached it
    """
    head = [f"{threshold:g} reached after", "steps", "seconds", "processor seconds", "steps of every seed"]
    rows = []
    for label, by_seed in reached.items():
        points = list(by_seed.values())
        complete = all(point is not None for point in points)
        means = [f"{np.mean([point[key] for point in points]):,.0f}" if complete else "" for key in REACHED]
        rows.append([label, *means, ", ".join("never" if point is None else f"{point['steps']:,.0f}" for point in points)])
    return table(head, rows)


def section_of_task(env: str, results: Results, statistics: dict[str, Any], threshold: float | None, out: Path) -> list[str]:
    """
    :param env: Id of the task
    :param results: Its results, by algorithm
    :param statistics: Their statistics
    :param threshold: The return that they were asked about, or None
    :param out: Where to write pictures
    :return: Its part of the page
    """
    labels = list(results)
    html = [f"<h2>{escape(env)}</h2>"]
    rows = []
    for label, row in statistics["return"].items():
        estimate, seeds = row["interquartile_mean"], row["seeds"].values()
        every = ", ".join(f"{value:.1f}" for value in seeds)
        rows.append([label, f"{estimate['value']:.1f}", interval(estimate, 1), f"{row['mean']:.1f}", every])
    html.append(table(["return of the final model", "interquartile mean", "95 % interval", "mean", "every seed"], rows))
    curves = curves_of(results)
    for x, what in (("steps", "steps"), ("seconds", "time")):
        figure = plot_curves(results, curves, env, x)
        html.append(picture(figure, out / f"{slug(env)}_return_{what}.png", f"return against {what}"))
    html.append(
        "<p>Lines: interquartile mean over the seeds; areas: 95 % intervals; thin lines: single seeds. Against time, a"
    )
    html.append("point lies where the seeds had reached it on average.</p>")
    if threshold is not None:
        html.append(reached_table(statistics["reached"], threshold))
    if len(labels) > 1:
        html.append("<h3>Probability that a run of the row is better than one of the column</h3>")
        html.append(improvement_table(statistics["probability_of_improvement"], labels))
    rows = []
    for label in labels:
        cost = statistics["cost"][label]
        rows.append([label, *("" if cost[key] is None else f"{cost[key]:,.{digits}f}" for key, digits in COSTS.values())])
    html += ["<h3>Cost of a run</h3>", table(["mean over the seeds", *COSTS], rows)]
    html.append(
        "<p>Training alone, without evaluation, one thread per run; other runs were on the machine meanwhile, which the"
    )
    html.append(
        "seconds feel and processor seconds hardly do. An update is a gradient step on one (mini)batch, of TRPO "
        "a step within the trust region together with those of its critic. Peak memory is"
    )
    html.append("that of the whole process.</p>")
    for label, ours in results.items():
        episode = next((result["episode"] for result in ours if result["episode"]), None)
        if episode is not None:
            title = f"{label}, {env}: internal states, return {episode['return']:.1f}"
            figure = plot_internal_states(np.array(episode["states"]), np.array(episode["actions"]), title)
            html.append(picture(figure, out / f"{slug(env)}_{slug(label)}_internal_states.png", title))
    return html


def write_report(
    out: Path,
    command: str,
    contestants: Sequence[Contestant],
    runs: Sequence[Run],
    results: Sequence[dict[str, Any]],
    threshold: float | None = None,
) -> None:
    """
    :param out: Folder to write to
    :param command: What has been called
    :param contestants: Algorithms
    :param runs: What was to be trained
    :param results: Results of what is finished
    :param threshold: A return: when the learning curves reach it is said
    """
    labels = [contestant.label for contestant in contestants]
    envs = list(dict.fromkeys(run.env for run in runs))
    finished = {(result["label"], result["env"], result["seed"]) for result in results}
    missing = [str(run) for run in runs if (run.label, run.env, run.seed) not in finished]
    html = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(', '.join(envs))}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(', '.join(labels))}</h1>",
        f"<pre>{escape(command)}</pre>",
    ]
    if missing:
        html.append(
            f'<p class="died">Not finished, and missing here: {escape("; ".join(missing))}. The same command goes on.</p>'
        )
    statistics = {}
    for env in envs:
        ours = by_label(results, env, labels)
        if ours:
            statistics[env] = statistics_of(ours, threshold)
            html += section_of_task(env, ours, statistics[env], threshold, out)
    over_tasks = statistics_over_tasks(results, labels, envs) if len(envs) > 1 else {}
    if over_tasks:
        html.append(
            "<h2>All tasks</h2><p>Returns are normalized: 0 is the lowest, 1 the highest mean of an algorithm on a task.</p>"
        )
        rows = [[label, f"{row['value']:.2f}", interval(row, 2)] for label, row in over_tasks["interquartile_mean"].items()]
        html.append(table(["normalized return", "interquartile mean", "95 % interval"], rows))
        html.append(improvement_table(over_tasks["probability_of_improvement"], list(over_tasks["interquartile_mean"])))
    html.append("<h2>How it was made</h2>")
    about = {contestant.label: contestant.algorithm.about for contestant in contestants}
    sources = [(run.label, run.env, run.source, run.settings) for run in runs if run.seed == 0]
    rows = [[label, env, about[label], source, json.dumps(settings)] for label, env, source, settings in sources]
    html.append(table(["algorithm", "task", "what it is", "settings from", "settings"], rows))
    machines = unique([result["machine"] for result in results])
    html.append(f"<p>Machines and versions of the runs:</p><pre>{escape(json.dumps(machines, indent=2))}</pre></body></html>")

    write_atomically(out / "report.html", "\n".join(html) + "\n")
    everything = {
        "command": command,
        "missing": missing,
        "threshold": threshold,
        "statistics": statistics,
        "over_tasks": over_tasks,
        "machine": machine(),
        "runs": [{key: value for key, value in result.items() if key != "episode"} for result in results],
    }
    write_atomically(out / "report.json", json.dumps(everything, indent=1) + "\n")


def unique(values: Sequence[Any]) -> list[Any]:
    """
    :param values: Values, some of them equal
    :return: Those that are different
    """
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
