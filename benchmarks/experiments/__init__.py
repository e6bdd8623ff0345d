"""One file an experiment: its sizes, its jobs, and the page that is made of its lines."""

from benchmarks.experiment import Experiment
from benchmarks.experiments import imbalance, longtail, noise

EXPERIMENTS: dict[str, Experiment] = {
    "imbalance": imbalance.EXPERIMENT,
    "longtail": longtail.EXPERIMENT,
    "noise": noise.EXPERIMENT,
}
