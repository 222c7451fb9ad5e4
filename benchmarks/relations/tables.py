"""Tables of finished runs, in the shape of those of a paper, and whether the relations in them hold."""

from __future__ import annotations

__all__ = ["lsq_plus_relations", "lsq_plus_tables"]

from statistics import fmean

from common.page import Relation, cell, noise, table

from .arms import Arm, Runs

CONFIGS = {
    1: "Config 1: unsigned, symmetric (LSQ)",
    2: "Config 2: signed, symmetric",
    3: "Config 3: signed, asymmetric",
    4: "Config 4: unsigned, asymmetric",
}
INITS = {"minmax": "Min-max", "lsq": "LSQ", "lsq+": "LSQ+"}
SWISH = {(c, b): Arm(config=c, bits=b) for c in CONFIGS for b in (2, 3, 4)}
RELU = {c: Arm(activation="relu", config=c) for c in CONFIGS}
STARTED = {init: Arm(init=init) for init in INITS}
OFFSETS = {
    "beta = 0 (config 1)": Arm(config=1, bits=4),
    "beta = x_min": Arm(bits=4, offset="x_min"),
    "learned": Arm(bits=4),
}
STARTS = {"weight_error": "error of weights", "activation_error": "error of activations", "loss": "loss"}


def lsq_plus_tables(runs: Runs, floats: dict[str, float]) -> str:
    """Tables 2 to 6 of the paper, with the accuracy of the float networks by activation function."""
    swish, relu = runs.values(SWISH.values()), runs.values(RELU.values())
    inits, offsets = runs.values(STARTED.values()), runs.values(OFFSETS.values())
    starts = [runs.values(STARTED.values(), key) for key in STARTS]
    configurations = [[name, *(cell(swish[SWISH[c, b]]) for b in (2, 3, 4))] for c, name in CONFIGS.items()]
    initializations = [
        [name, *(cell(start[STARTED[init]], 3) for start in starts), cell(inits[STARTED[init]])]
        for init, name in INITS.items()
    ]
    return "\n\n".join(
        [
            f"E1, tables 2 and 3: configurations, Swish network (float {floats['swish']:.2f} %)",
            table(["", "W2A2", "W3A3", "W4A4"], configurations),
            f"E2, table 4: configurations, ReLU network (float {floats['relu']:.2f} %)",
            table(["", "W2A2"], [[name, cell(relu[RELU[c]])] for c, name in CONFIGS.items()]),
            "E3, table 5: initializations, Swish network, config 4; at the start, and accuracy at the end",
            table(["", *STARTS.values(), "W2A2"], initializations),
            "E4, table 6: offsets, Swish network, config 4",
            table(["offset", "W4A4"], [[name, cell(offsets[arm])] for name, arm in OFFSETS.items()]),
        ]
    )


def lsq_plus_relations(runs: Runs) -> list[Relation]:
    """What the tables of the paper say, held against the runs."""

    def accuracy(*arms: Arm) -> list[list[float]]:
        return list(runs.values(arms).values())

    gaps = [_differences(*accuracy(SWISH[4, b], SWISH[2, b])) for b in (4, 3, 2)]
    lowest = [(c, _differences(*accuracy(RELU[c], RELU[2]))) for c in (1, 3, 4)]
    return [
        _every("E1", "W2A2: 4 above 2 on every seed", gaps[2]),
        _rising("E1", "the gap between 4 and 2 grows from W4A4 over W3A3 to W2A2", gaps),
        _rising("E1", "W2A2: the mean of 4 is not below that of 1", accuracy(SWISH[1, 2], SWISH[4, 2])),
        _alike("E1", "W2A2: 3 and 4 within noise", accuracy(SWISH[3, 2], SWISH[4, 2])),
        _alike("E2", "W2A2: 1, 3 and 4 within noise", accuracy(RELU[1], RELU[3], RELU[4])),
        *(_every("E2", f"W2A2: {c} above 2 on every seed", gap) for c, gap in lowest),
        *(_start_order(runs, key) for key in STARTS),
        _rising("E3", "means: LSQ+ >= min-max", accuracy(STARTED["minmax"], STARTED["lsq+"])),
        _rising("E4", "means: learned >= x_min >= 0", accuracy(*OFFSETS.values())),
    ]


def _differences(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)] if a and b else []


def _every(experiment: str, text: str, differences: list[float]) -> Relation:
    numbers = ", ".join(f"{d:+.2f}" for d in differences)
    return Relation(experiment, text, numbers, min(differences) > 0 if differences else None)


def _rising(experiment: str, text: str, arms: list[list[float]]) -> Relation:
    if not all(arms):
        return Relation(experiment, text, "", None)
    means = [fmean(arm) for arm in arms]
    return Relation(experiment, text, ", ".join(f"{m:.2f}" for m in means), means == sorted(means))


def _alike(experiment: str, text: str, arms: list[list[float]]) -> Relation:
    """Means no further apart than twice the spread over seeds, pooled."""
    if min(map(len, arms)) < 2:
        return Relation(experiment, text, "", None)
    means = [fmean(arm) for arm in arms]
    apart, most = max(means) - min(means), noise(arms)
    return Relation(experiment, text, f"{apart:.2f} apart, twice the spread {most:.2f}", apart <= most)


def _start_order(runs: Runs, key: str) -> Relation:
    found = runs.values(STARTED.values(), key)
    arms = [found[STARTED[init]] for init in ("lsq+", "lsq", "minmax")]
    text = f"{STARTS[key]} at the start: LSQ+ < LSQ < min-max on every seed"
    if not all(arms):
        return Relation("E3", text, "", None)
    holds = all(a < b < c for a, b, c in zip(*arms, strict=True))
    return Relation("E3", text, ", ".join(f"{fmean(arm):.3f}" for arm in arms), holds)
