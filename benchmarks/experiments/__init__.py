"""One file an experiment: its sizes, its jobs, and the page that is made of its lines."""

from benchmarks.experiment import Experiment
from benchmarks.experiments import attacks, imbalance, split, workers

EXPERIMENTS: dict[str, Experiment] = {
    "imbalance": imbalance.EXPERIMENT,
    "attacks": attacks.EXPERIMENT,
    "workers": workers.EXPERIMENT,
    "split": split.EXPERIMENT,
}
