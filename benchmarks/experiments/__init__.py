"""One file an experiment: its sizes, its jobs, and the page that is made of its lines."""

from benchmarks.experiment import Experiment
from benchmarks.experiments import ablations, domains, exact, imbalance, longtail, meta, noise, tabular

EXPERIMENTS: dict[str, Experiment] = {
    "imbalance": imbalance.EXPERIMENT,
    "tabular": tabular.EXPERIMENT,
    "exact": exact.EXPERIMENT,
    "domains": domains.EXPERIMENT,
    "ablations": ablations.EXPERIMENT,
    "meta": meta.EXPERIMENT,
    "longtail": longtail.EXPERIMENT,
    "noise": noise.EXPERIMENT,
}
