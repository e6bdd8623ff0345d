"""What the adversary costs beside the optimizer it replaces: `python -m benchmarks speed`.

Every figure is a ratio: two compiled programs that take turns in one process, A B B A, so that what else the machine
does falls on both. One idea a module: `timing` (turns, medians, intervals), `models` and `workloads` (what is trained),
`optimizers` (what is compared), `cases` (which pairs, and their sizes), `steps`, `dual`, `compiling`, `devices` with
`hlo`, `sweep` and `rules` (the six parts), `run` (progress and resume), `bars` (what was promised, and whether it
holds), `report` with `figure` (from the JSON lines alone).
"""
