"""Which tests have to notice a change of which module: the quick ones that are about it, ten seconds at most."""

TESTS: dict[str, tuple[str, ...]] = {
    "also_optax/_groups.py": ("tests/test_groups.py", "tests/test_also.py"),
    "also_optax/_read.py": ("tests/test_read.py", "tests/faults/test_settings.py", "tests/test_reference_losses.py"),
    "also_optax/_simplex.py": ("tests/test_simplex.py", "tests/test_strength.py"),
    "also_optax/rules/absgd.py": ("tests/test_absgd.py", "tests/faults/test_settings.py"),
    "also_optax/rules/also.py": ("tests/test_also.py", "tests/test_also_variants.py", "tests/test_official.py"),
    "also_optax/rules/also_scores.py": ("tests/test_lazy.py",),
    "also_optax/rules/chi2.py": ("tests/test_batch_rules.py",),
    "also_optax/rules/cvar.py": ("tests/test_batch_rules.py",),
    "also_optax/rules/doremi.py": ("tests/test_doremi.py",),
    "also_optax/rules/exponentiated_gradient.py": ("tests/test_exponentiated_gradient.py",),
    "also_optax/rules/group_dro.py": ("tests/test_group_dro.py",),
    "also_optax/rules/kl_cvar.py": ("tests/test_batch_rules.py",),
    "also_optax/rules/rgd.py": ("tests/test_rgd.py",),
    "also_optax/rules/spectral_risk.py": ("tests/test_batch_rules.py",),
    "also_optax/rules/tilted.py": ("tests/test_tilted.py",),
}
"""Arguments of pytest by module, the likeliest to fail first."""
