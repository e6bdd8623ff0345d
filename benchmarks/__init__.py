"""Benchmarks: `python -m benchmarks imbalance` on real data and `python -m benchmarks speed`; then `... report`.

One idea a module, so that an experiment is one new module beside `imbalance`: `data` (fetch, check, load), `models`
(Flax), `methods` (what is compared, with grids), `metrics`, `training` (jit, vmap and scan over a whole sweep),
`records` (JSON lines: provenance and resume), `report` with `figure` (tables, sentences and pictures, from the lines
alone). `speed` has its own.
"""
