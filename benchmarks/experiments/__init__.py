"""One file an experiment: its sizes, its jobs, and the page that is made of its lines."""

from benchmarks.experiment import Experiment
from benchmarks.experiments import (
    ablations,
    attacks,
    domains,
    exact,
    imbalance,
    longtail,
    meta,
    noise,
    split,
    tabular,
    workers,
)

EXPERIMENTS: dict[str, Experiment] = {
    "imbalance": imbalance.EXPERIMENT,
    "tabular": tabular.EXPERIMENT,
    "attacks": attacks.EXPERIMENT,
    "workers": workers.EXPERIMENT,
    "split": split.EXPERIMENT,
    "longtail": longtail.EXPERIMENT,
    "noise": noise.EXPERIMENT,
    "ablations": ablations.EXPERIMENT,
    "domains": domains.EXPERIMENT,
    "meta": meta.EXPERIMENT,
    "exact": exact.EXPERIMENT,
}
