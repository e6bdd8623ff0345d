"""Which tests have to notice a change of which module: the quick ones that are about it, ten seconds at most."""

SETTINGS = "tests/faults/test_settings.py"
BATCH_RULES = ("tests/test_batch_rules.py", SETTINGS, "-k")
QUICK = ("-k", "not million and not sequences")

TESTS: dict[str, tuple[str, ...]] = {
    "also_optax/_groups.py": ("tests/test_groups.py", "tests/test_also.py", *QUICK),
    "also_optax/_read.py": ("tests/test_read.py", SETTINGS, "tests/test_reference_losses.py"),
    "also_optax/_simplex.py": ("tests/test_simplex.py", "tests/test_strength.py"),
    "also_optax/rules/absgd.py": ("tests/test_absgd.py", SETTINGS, *QUICK),
    "also_optax/rules/also.py": (
        "tests/test_also.py", "tests/test_also_variants.py", "tests/test_official.py", SETTINGS, *QUICK,
    ),
    "also_optax/rules/also_scores.py": (
        "tests/test_lazy.py", "-k", "not (twenty or rare_work or copies or (hard_cases and (top or strong or beyond)))",
    ),
    "also_optax/rules/chi2.py": (*BATCH_RULES, "chi2 and not (spectral or smoothed)"),
    "also_optax/rules/cvar.py": (*BATCH_RULES, "(cvar and not kl) or plain_training or largest_loss"),
    "also_optax/rules/doremi.py": ("tests/test_doremi.py", SETTINGS),
    "also_optax/rules/exponentiated_gradient.py": ("tests/test_exponentiated_gradient.py", SETTINGS),
    "also_optax/rules/group_dro.py": ("tests/test_group_dro.py", SETTINGS),
    "also_optax/rules/kl_cvar.py": (*BATCH_RULES, "kl_cvar"),
    "also_optax/rules/rgd.py": ("tests/test_rgd.py", SETTINGS, "-k", "not checkpoint"),
    "also_optax/rules/spectral_risk.py": (*BATCH_RULES, "superquantile or extremile or spectral or mass or smooth"),
    "also_optax/rules/tilted.py": ("tests/test_tilted.py", SETTINGS),
}  # fmt: skip
"""Arguments of pytest by module, the likeliest to fail first."""
