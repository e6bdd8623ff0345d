"""Benchmarks: `python -m benchmarks NAME` for each experiment on real data, `... speed`, and `... report`.

An experiment is a file of `experiments`: sizes, jobs, and the page that is made of its lines (`experiment`). What they
share, from the data up: `data` (real data, fetched and checked), `networks`, `training` (many runs as one compiled
function), `methods` (what is compared, with its search space), `tuning` (Optuna's TPE in rounds), `search` and
`comparison` (tuned alike, then many seeds), `jobs` (each done once, with a bar), `records` (JSON lines), and `metrics`,
`statistics`, `tables`, `plots`, `report` (pages from lines alone, and their check). `speed` measures ratios and has its
own; `baselines` are methods that no gradient transformation can be.
"""
