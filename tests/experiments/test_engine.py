"""The engine of the experiments: search, resume, training of many runs, statistics, pages that say what lines say."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from benchmarks import jobs, metrics, records, report, search, statistics, tables
from benchmarks.__main__ import main
from benchmarks.experiment import Experiment, Page
from benchmarks.experiments import EXPERIMENTS, imbalance
from benchmarks.jobs import Job
from benchmarks.methods import METHODS
from benchmarks.networks import MLP, ResNet
from benchmarks.training import Pool, Runs, Task, cosine, outputs_of, stacked, staircase, train, training_set
from benchmarks.tuning import Range, best, propose

QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Sizes:
    """Of a made-up experiment."""

    things: int = 2


def test_a_search_stays_in_its_ranges_finds_the_optimum_and_goes_on_from_its_trials():
    space = {"a": Range(1e-3, 1e1), "b": Range(-1.0, 1.0, log=False)}

    def score(setting):
        return -(np.log10(setting["a"]) ** 2) - setting["b"] ** 2

    trials = []
    for number in range(10):
        asked = propose(space, trials, 4, seed=number)
        assert propose(space, trials, 4, seed=number) == asked  # a stopped search proposes the same again
        trials += [(setting, score(setting)) for setting in asked]
    assert all(1e-3 <= s["a"] <= 10 and -1 <= s["b"] <= 1 for s, _ in trials)
    assert score(best(trials)) > max(score(s) for s, _ in trials[:8])  # better than what was drawn at random


def test_a_search_survives_runs_that_diverged():
    space = {"a": Range(1.0, 2.0)}
    trials = [({"a": 1.5}, -np.inf), ({"a": 1.2}, 3.0), ({"a": 1.1}, np.nan)]
    assert len(propose(space, trials, 2, seed=0)) == 2
    assert best(trials) == {"a": 1.2}
    with pytest.raises(ValueError, match="run the tuning"):
        best(trials[:1])


def counted(name, log, fails=False):
    def work(lines, on_progress):
        log.append((name, len(lines)))
        on_progress(0.5)
        if fails:
            raise RuntimeError("no luck")
        return [{"kind": "final", "value": len(log)}]

    return Job(name, {"name": name}, 1.0, work)


def test_a_job_is_done_once_sees_the_lines_before_it_and_is_done_again_after_it_failed(tmp_path):
    file, log = tmp_path / "made.jsonl", []
    assert jobs.run("made", Sizes(), [counted("a", log), counted("b", log, fails=True)], file, console=QUIET) == 1
    assert jobs.run("made", Sizes(), [counted("a", log), counted("b", log)], file, console=QUIET) == 0
    assert log == [("a", 0), ("b", 1), ("b", 2)]
    lines = records.read(file)
    assert [line["job_name"] for line in lines] == ["a", "b"] and not any("error" in line for line in lines)
    assert {"versions", "commit", "time", "job_seconds", "protocol", "study"} <= set(lines[0])


def test_other_sizes_are_another_study_whose_lines_are_kept_apart(tmp_path):
    file, log = tmp_path / "made.jsonl", []
    for sizes in (Sizes(), Sizes(3)):
        jobs.run("made", sizes, [counted("a", log)], file, console=QUIET)
    assert log == [("a", 0), ("a", 0)]
    assert len(report.of_study(records.read(file))) == 1
    jobs.run("made", Sizes(), [counted("a", log)], file, fresh=True, console=QUIET)
    assert len(log) == 3 and len(records.read(file)) == 2


def test_a_stopped_experiment_keeps_what_is_done(tmp_path):
    file, log = tmp_path / "made.jsonl", []

    def stop(lines, on_progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.run("made", Sizes(), [counted("a", log), Job("b", {"b": 1}, 1.0, stop)], file, console=QUIET)
    jobs.run("made", Sizes(), [counted("a", log), counted("c", log)], file, console=QUIET)
    assert [name for name, _ in log] == ["a", "c"]


def two_blobs(count=60, size=64):
    rng = np.random.default_rng(0)
    classes = (np.arange(count) % 4 == 0).astype(int)
    features = rng.normal(size=(count, 3)).astype(np.float32) + 2 * classes[:, None]
    pool = Pool(jnp.asarray(features), jnp.float32(1))
    return pool, classes, training_set(np.arange(count), classes, size=size, num_classes=2)


def runs_of(training, seeds, settings, validation):
    return Runs(stacked([training] * len(seeds)), np.array(seeds), settings, np.stack([validation] * len(seeds)))


@pytest.mark.parametrize("together", [1, 2])
def test_a_run_is_what_a_plain_loop_trains(together):
    pool, classes, training = two_blobs()
    task = Task(MLP(2, (4,)), steps=6, batch_size=8, checks=2, shape=cosine, together=together)
    settings = [{"learning_rate": 0.1, "weight_decay": 0.01}, {"learning_rate": 0.02, "weight_decay": 0.1}]
    rows = np.arange(60)
    trained = train(
        task, METHODS["adamw"], pool, runs_of(training, [3, 5], settings, rows), lambda r, outputs: outputs.sum()
    )
    for r, (seed, setting) in enumerate(zip([3, 5], settings, strict=True)):
        tx = optax.adamw(
            lambda count, s=setting: s["learning_rate"] * cosine(count / 6), weight_decay=setting["weight_decay"]
        )
        params = task.model.init(jax.random.key(seed), pool.features[:1])
        opt_state, scores, found = tx.init(params), [], []
        order = np.argsort(classes, kind="stable")
        for number in range(6):
            key = jax.random.fold_in(jax.random.key(seed), 1 + number)
            drawn = order[np.asarray(jax.random.randint(key, (8,), 0, 60))]

            def loss(p, drawn=drawn):
                logits = task.model.apply(p, pool.features[drawn])
                return optax.softmax_cross_entropy_with_integer_labels(logits, classes[drawn]).mean()

            updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
            params = optax.apply_updates(params, updates)
            if number in (2, 5):
                found.append(np.asarray(task.model.apply(params, pool.features)))
                scores.append(found[-1].sum())
        np.testing.assert_allclose(trained.curves[:, r], scores, rtol=1e-4)
        outputs = outputs_of(task, pool, trained.params, rows[None].repeat(2, 0))[r]
        np.testing.assert_allclose(outputs, found[int(np.argmax(scores))], rtol=1e-4, atol=1e-5)


def test_padding_is_never_drawn_and_no_method_depends_on_it():
    pool, _, short = two_blobs(size=60)
    _, _, long = two_blobs(size=77)
    task = Task(MLP(2, (4,)), steps=8, batch_size=16, checks=1)
    setting = {"learning_rate": 0.05, "weight_decay": 0.01, "dual_learning_rate": 0.1, "kl_penalty": 0.1}
    for name in ("also-examples", "also-uniform"):
        found = [
            train(task, METHODS[name], pool, runs_of(s, [0], [setting], np.arange(60)), lambda r, o: 0.0).params
            for s in (short, long)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *found)


def test_a_class_balanced_prior_and_balanced_draws_give_classes_equal_weight():
    pool, _, training = two_blobs()
    task = Task(MLP(2, (4,)), steps=300, batch_size=32, checks=1)
    plain = {"learning_rate": 1e-4, "weight_decay": 1e-4}
    frozen = plain | {"dual_learning_rate": 1e-9, "kl_penalty": 1e-3}
    named = {"static": plain, "upsampling": plain}
    named |= dict.fromkeys(("also-examples", "also-classes", "also-balanced"), frozen)
    losses = {}
    for name, setting in named.items():
        trained = train(
            task, METHODS[name], pool, runs_of(training, [0], [setting], np.arange(60)), lambda r, outputs: 0.0
        )
        np.testing.assert_allclose(trained.class_weights[0, 0], [2 / 3, 2.0], rtol=0.06)
        losses[name] = trained.losses
    np.testing.assert_allclose(losses["also-balanced"][..., 0], losses["also-balanced"][..., 1], rtol=1e-4)  # weights 1


def test_every_method_takes_a_step_that_changes_its_model_and_keeps_it_finite():
    pool, _, training = two_blobs()
    task = Task(MLP(2, (4,)), steps=3, batch_size=16, checks=1)
    for name in ("recover", "spectral", "group-dro", "logit-adjustment", "also-lookahead"):
        method = METHODS[name]
        middle = {key: np.sqrt(r.low * r.high) if r.log else (r.low + r.high) / 2 for key, r in method.space.items()}
        trained = train(task, method, pool, runs_of(training, [0], [middle], np.arange(60)), lambda r, outputs: 1.0)
        start = task.model.init(jax.random.key(0), pool.features[:1])
        moved = jax.tree.map(lambda a, b: float(abs(a[0] - b).max()), trained.params, start)
        assert np.isfinite(trained.losses).all() and min(jax.tree.leaves(moved)) > 0


def test_a_run_that_diverges_scores_worst_and_the_best_check_is_kept():
    pool, _, training = two_blobs()
    task = Task(MLP(2, (4,)), steps=4, batch_size=8, checks=4)
    settings = [{"learning_rate": lr, "weight_decay": 1e-4} for lr in (1e38, 1e-2)]
    scores = iter([1.0, 3.0, 2.0, 3.0])
    trained = train(
        task, METHODS["adamw"], pool, runs_of(training, [0, 0], settings, np.arange(60)), lambda r, o: next(scores)
    )
    assert trained.scores[0] == -np.inf and trained.scores[1] == 3.0
    assert trained.curves[:, 1].tolist() == [1.0, 3.0, 2.0, 3.0]


def test_the_shapes_of_learning_rates():
    at = jnp.array([0.0, 0.5, 0.79, 0.85, 0.95])
    np.testing.assert_allclose(cosine(at[:2]), [1.0, 0.5])
    np.testing.assert_allclose(staircase(at), [1, 1, 1, 0.1, 0.01], rtol=1e-6)


def test_a_residual_network_keeps_shapes_at_any_resolution():
    for side in (8, 28):
        images = jnp.ones((2, side, side, 1))
        outputs, _ = ResNet(3).init_with_output(jax.random.key(0), images)
        assert outputs.shape == (2, 3)


def test_holm_is_that_of_the_textbook_and_leaves_nan_out():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, np.nan, 0.5]), [0.04, 0.09, 0.09, np.nan, 0.5])


def made_lines():
    rng = np.random.default_rng(0)
    rows = []
    for problem in ("p1", "p2", "p3"):
        for seed in range(6):
            base = rng.normal()
            for method, lead in (("adamw", 0.0), ("better", 1.0), ("same", 0.0)):
                value = base + lead + 0.2 * rng.normal()
                rows.append({"kind": "final", "method": method, "problem": problem, "seed": seed, "score": value})
    return pd.DataFrame(rows)


def test_differences_are_paired_by_seed_and_corrected_within_a_problem():
    lines = made_lines()
    found = statistics.differences(lines, "score", "adamw")
    wide = lines[lines["problem"] == "p1"].pivot(index="seed", columns="method", values="score")
    ps = [stats.ttest_rel(wide[name], wide["adamw"]).pvalue for name in ("better", "same")]
    np.testing.assert_allclose(found.xs("p1", level="problem")["p"], statistics.holm(ps))
    assert (found.loc["better", "p"] < 0.05).all() and (found.loc["better", "mean"] > 0.5).all()
    assert "better" not in " ".join(tables.did_not_help(lines, "score", "adamw"))
    assert "above it at p1, p2, p3" in tables.verdicts(lines, "score", "better", "adamw")


def test_ranks_are_of_means_in_blocks_and_the_best_is_never_worse_than_the_best():
    lines = made_lines()
    rank = statistics.ranks(lines, "score")
    assert rank.index[0] == "better" and rank["better"] == 1.0 and rank.sum() == pytest.approx(6.0)
    assert statistics.ranks(lines.assign(score=-lines["score"]), "score", smaller=True)["better"] == 1.0
    assert statistics.not_worse_than_the_best(lines, "score", "better") == ("better", 1.0)
    best_name, p = statistics.not_worse_than_the_best(lines, "score", "same", blocks=("problem", "seed"))
    assert best_name == "better" and p < 0.01


def test_scores_of_two_classes_are_those_of_scikit_learn_and_of_a_diverged_model_are_numbers():
    target, logits = np.array([0, 0, 0, 1]), np.array([[2.0, 0], [0, 1], [3, 1], [0, 2]])
    found = metrics.of_binary(target, logits)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-6) and found[
        "worse_class"
    ] == pytest.approx(0.666667)
    assert found["f1"] == pytest.approx(2 / 3, abs=1e-6) and found["auc"] == 1.0 and found["finite"]
    assert 5 / 6 - 1e-2 < metrics.balanced_score(target, logits) < 5 / 6
    diverged = metrics.of_binary(target, np.full((4, 2), np.nan))
    assert not diverged["finite"] and diverged["balanced_accuracy"] == 0.5


def test_the_same_images_are_tested_at_every_factor_and_fewer_odd_ones_are_left_at_a_larger():
    dataset = imbalance.datasets.load("digits")
    protocol = imbalance.PROTOCOLS["quick"]
    small, large = (imbalance.split(dataset, protocol, uc, 3) for uc in (5, 20))
    np.testing.assert_array_equal(small[2], large[2])
    for train_rows, validation, test in (small, large):
        assert len(np.unique(np.concatenate([train_rows, validation, test]))) == len(train_rows) + len(
            validation
        ) + len(test)
    odd = [rows[dataset.classes[rows] % 2 == 1] for rows in (np.concatenate(s[:2]) for s in (small, large))]
    assert set(odd[1]) < set(odd[0]) and 3 < len(odd[0]) / len(odd[1]) < 5


def test_tuning_and_final_seeds_are_apart_and_a_final_run_waits_for_its_tuning():
    made = list(imbalance.jobs(imbalance.PROTOCOLS["smoke"]))
    final = next(job for job in made if "seeds" in job.name)
    with pytest.raises(ValueError, match="run the tuning"):
        final.work([], lambda fraction: None)
    assert search.FIRST_TUNING_SEED > max(p.seeds for p in imbalance.PROTOCOLS.values())


def test_all_experiments_have_three_sizes_whose_jobs_have_names_of_their_own():
    for experiment in EXPERIMENTS.values():
        assert set(experiment.protocols) == {"smoke", "quick", "full"}
        names = [job.name for job in experiment.jobs(experiment.protocols["smoke"])]
        assert names and len(set(names)) == len(names)


def made_experiment():
    def page(lines):
        table = tables.scores(lines, "score", tables.plain)
        return Page(("An intro.",), ("One sentence.",), {"Scores": table})

    return Experiment("Made up", "nothing", {}, lambda protocol: [], page)


def make_file(tmp_path):
    file = tmp_path / "made.jsonl"
    common = {"study": "s", "job": "j", "job_seconds": 60.0, "protocol": {"things": 2}} | records.provenance()
    records.write(file, [json.loads(json.dumps(row)) | common for row in made_lines().to_dict("records")])
    return file, lambda file, study: report.render(made_experiment(), file, study)


def test_a_page_is_made_of_its_lines_and_checked_against_them(tmp_path):
    file, render = make_file(tmp_path)
    assert [text for text in report.wrong_pages(file, render)] == [f"{file.with_suffix('.md')} is missing"]
    report.make(file, render, QUIET)
    assert not list(report.wrong_pages(file, render))
    page = file.with_suffix(".md")
    page.write_text(page.read_text().replace("| better | ", "| better | 9"))
    assert "differs from its lines at line" in next(report.wrong_pages(file, render))


def test_pieces_of_other_pages_are_filled_in_and_unknown_ones_are_named(tmp_path):
    file, render = make_file(tmp_path)
    other = tmp_path / "OTHER.md"
    other.write_text("# Hello\n\n<!-- made: Scores -->\nold\n<!-- end -->\nand <!-- made: FINDINGS -->\n<!-- end -->\n")
    filled = report.fill(other, lambda name, title: report.piece(file, render, title))
    assert "old" not in filled and "| better |" in filled and "- One sentence." in filled
    other.write_text(filled)
    assert report.fill(other, lambda name, title: report.piece(file, render, title)) == filled
    with pytest.raises(report.NoResultsError, match="no table 'Nothing'"):
        report.piece(file, render, "Nothing")


def test_the_suite_took_the_time_in_which_any_job_ran(tmp_path):
    ends = ["2026-01-01T01:00:00+00:00", "2026-01-01T01:30:00+00:00", "2026-01-01T04:00:00+00:00"]
    lines = [{"study": "s", "job": k, "job_seconds": 3600, "cpus": 2, "time": end} for k, end in enumerate(ends)]
    records.write(tmp_path / "made.jsonl", lines)
    (said,) = report.suite([tmp_path / "made.jsonl"]).findings
    assert said.endswith("3 jobs, 3.0 hours by their own clocks, done within 2.5 hours on 2 CPUs: 1.2 at a time.")


def test_the_committed_pages_and_readme_say_what_their_lines_say(capsys):
    assert main(["report", "--check"]) == 0
    assert "pages are what their lines say" in capsys.readouterr().out


def test_what_is_asked_for_wrongly_is_said(tmp_path, capsys):
    assert main(["imbalance", "--smoke", "--only", "nothing-like-it", "--out", str(tmp_path)]) == 1
    assert "--list" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path)]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["imbalance", "--smoke", "--quick"])
    assert main(["imbalance", "--smoke", "--list", "--out", str(tmp_path)]) == 0
