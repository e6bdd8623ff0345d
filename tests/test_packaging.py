"""What users install: the built package, its annotations, and what an import of it costs and does."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
USER_PROJECT = """
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

import also_optax
from also_optax import checkpoints, divergences, losses, samplers, spectra

Params = dict[str, jax.Array]


def per_example_loss(params: Params, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    found: jax.Array = optax.sigmoid_binary_cross_entropy(inputs @ params["w"], labels)
    return found


def optimizers(num_groups: int) -> Iterator[optax.GradientTransformationExtraArgs]:
    schedule = optax.cosine_decay_schedule(0.1, 100)
    yield also_optax.also(schedule, num_groups, dual_learning_rate=0.1, group_frequencies=jnp.ones(num_groups))
    yield also_optax.absgd(0.1, temperature=schedule)
    yield also_optax.abadam(0.1, radius=0.2)
    yield also_optax.rgd(0.1, divergence=divergences.chi2)
    yield also_optax.rgd(0.1, divergence=divergences.Divergence(lambda losses, clip: jnp.minimum(losses, clip)))
    yield also_optax.group_dro(0.1, num_groups)
    yield also_optax.cvar(0.1, alpha=0.5)
    yield also_optax.tilted(0.1, t=1.0)
    yield optax.chain(also_optax.reweight_by_spectral_risk(spectra.extremile(2.0)), optax.sgd(0.1))
    yield also_optax.multi_steps(optax.chain(also_optax.reweight_by_rgd(), optax.sgd(0.1)), every_k=2)


def train(tx: optax.GradientTransformationExtraArgs, inputs: jax.Array, labels: jax.Array, groups: jax.Array) -> float:
    params: Params = {"w": jnp.zeros(inputs.shape[1])}
    opt_state = tx.init(params)

    def train_step(params: Params, opt_state: optax.OptState) -> tuple[Params, optax.OptState, jax.Array]:
        def loss_fn(params: Params) -> tuple[jax.Array, also_optax.Reweighted]:
            return also_optax.reweight(opt_state, per_example_loss(params, inputs, labels), groups)

        (loss, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        new_params: Params = optax.apply_updates(params, updates)
        return new_params, opt_state, loss

    step = jax.jit(train_step)
    for _ in range(2):
        params, opt_state, loss = step(params, opt_state)
    (loss, rw), _ = also_optax.value_and_grad(per_example_loss)(params, opt_state, inputs, labels, groups=groups)
    weights: jax.Array = also_optax.example_weights(opt_state, rw.losses, groups)
    description = checkpoints.describe(opt_state)
    checkpoints.check(opt_state, description)
    diagnostics: dict[str, jax.Array] = also_optax.diagnostics(opt_state)
    assert bool(jnp.isfinite(weights).all()) and "rejected" in diagnostics
    return float(loss)


def main() -> None:
    index = samplers.group_index([0, 1, 0, 1], 2)
    batch = samplers.group_balanced(jax.random.key(0), index, 4)
    groups = jnp.array([0, 1, 0, 1])[batch]
    inputs = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])[batch]
    labels = jnp.array([0.0, 1.0, 0.0, 1.0])[batch]
    print([train(tx, inputs, labels, groups) for tx in optimizers(2)])
    print(losses.class_balanced_weights([3, 1]), spectra.superquantile(0.5))


main()
"""
HEAVY = {"chex", "flax", "grain", "matplotlib", "orbax", "pandas", "scipy", "sklearn", "torch"}
"""No import of ours brings one of these that JAX and optax do not bring themselves."""


def python(*arguments: str, folder: Path, path: Path | None = None) -> str:
    """Runs Python outside of the tree, with `path` before all other packages."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, with the wheel made of the sdist, as an index would have them."""
    folder = tmp_path_factory.mktemp("built")
    python("-m", "build", "--outdir", str(folder), str(ROOT), folder=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A folder with the wheel and nothing else of ours."""
    folder = tmp_path_factory.mktemp("installed")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(built[0])]
    python(*command, folder=folder)
    return folder


@pytest.fixture(scope="module")
def user_project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "project.py").write_text(USER_PROJECT)
    return folder


def sources() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "also_optax").rglob("*.py")}


def test_the_wheel_has_the_package_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    assert sources() | {"also_optax/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"also_optax", built[0].name.split("-py3")[0] + ".dist-info"}


def test_the_sdist_has_what_its_tests_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources() | {"also_optax/py.typed", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("*.py")} <= names


def test_the_installed_package_trains_outside_of_the_tree(installed, user_project):
    python("-W", "error", "project.py", folder=user_project, path=installed)
    where = python("-c", "import also_optax; print(also_optax.__file__)", folder=user_project, path=installed)
    assert Path(where.strip()).is_relative_to(installed)


def test_a_users_project_passes_mypy_strict(installed, user_project):
    config = user_project / "mypy.ini"
    optax = "[mypy-optax.*]\nignore_missing_imports = True\n"  # it has annotations, but does not offer them
    cache = ROOT / ".mypy_cache" / "strict"
    config.write_text(f"[mypy]\nstrict = True\nmypy_path = {installed}\ncache_dir = {cache}\n{optax}")
    python("-m", "mypy", "--config-file", str(config), "project.py", folder=user_project, path=installed)


def test_an_import_starts_no_device_and_warns_of_nothing(installed, tmp_path):
    code = "import also_optax\nfrom jax._src import xla_bridge\nassert not xla_bridge._backends, xla_bridge._backends\n"
    python("-W", "error", "-c", code, folder=tmp_path, path=installed)


def test_an_import_brings_nothing_heavy(installed, tmp_path):
    """Beyond what optax brings, there is our own package alone, and modules of Python and of JAX."""
    code = "import sys, optax; before = set(sys.modules); import also_optax; print(*set(sys.modules) - before)"
    brought = {name.split(".")[0] for name in python("-c", code, folder=tmp_path, path=installed).split()}
    assert "also_optax" in brought
    assert not brought & HEAVY
    assert brought - set(sys.stdlib_module_names) <= {"also_optax", "jax", "optax"}
