"""Which tests have to notice a change of which module: the quick ones that are about it, ten seconds at most."""

SETTINGS = "tests/faults/test_settings.py"
PROMISES = (
    "merged_statistics_are_those_of_both",
    "pooled_statistics_are_those_of_all",
    "padding_has_no_part_and_is_not_counted",
    "losses_above_max_loss_are_rejected",
    "a_batch_that_says_nothing_moves_nothing",
    "huge_finite_losses_leave_a_finite_state",
    "a_step_passes_debug_nans",
    "read_and_write_side_see_the_same_value_of_a_schedule",
)
"""Of the contract: what a rule's own file takes for granted."""


def contract(*rows: str) -> tuple[str, ...]:
    """These promises of `rows`, variants too."""
    test = "tests/test_contract.py::test_a_rule_keeps_its_promise"
    return (*(f"{test}[{promise}-{row}]" for row in rows for promise in PROMISES), "-m", "slow or not slow")


BATCH_RULES = ("tests/test_batch_rules.py", SETTINGS)
QUICK = ("-k", "not million and not sequences")

TESTS: dict[str, tuple[str, ...]] = {
    "also_optax/_groups.py": ("tests/test_groups.py", "tests/test_also.py", *QUICK),
    "also_optax/_read.py": (
        "tests/test_read.py", SETTINGS, "tests/test_reference_losses.py",
        "tests/faults/test_losses.py::test_the_loss_is_finite_where_all_losses_are",
    ),
    "also_optax/_simplex.py": (
        "tests/test_simplex.py", "tests/test_strength.py", "tests/test_also_variants.py", "tests/faults/test_ranges.py",
        SETTINGS,
    ),
    "also_optax/rules/absgd.py": (
        SETTINGS, "tests/test_absgd.py", "tests/test_strength.py", *contract("absgd", "absgd_in_a_ball"),
        "-k", "not million and not sequences and not (strength and not absgd)",
    ),
    "also_optax/rules/also.py": (
        SETTINGS, "tests/test_official.py", "tests/test_also.py", "tests/test_also_variants.py",
        *contract("also"), "tests/test_lazy.py::test_the_form_is_chosen_by_the_number_of_groups", *QUICK,
    ),
    "also_optax/rules/also_scores.py": (
        "tests/test_lazy.py", *contract("also_lazy"), "-k",
        "not (twenty or rare_work or copies or million or (hard_cases and (top or strong or beyond)))",
    ),
    "also_optax/rules/chi2.py": (
        *BATCH_RULES, *contract("chi2_penalty", "chi2_ball"), "-k", "chi2 and not (spectral or smoothed)",
    ),
    "also_optax/rules/cvar.py": (
        *BATCH_RULES, *contract("cvar"), "-k", "(cvar and not kl) or plain_training or largest_loss",
    ),
    "also_optax/rules/doremi.py": (SETTINGS, "tests/test_doremi.py", *contract("doremi")),
    "also_optax/rules/exponentiated_gradient.py": (
        SETTINGS, "tests/test_exponentiated_gradient.py", *contract("exponentiated_gradient"),
    ),
    "also_optax/rules/group_dro.py": (SETTINGS, "tests/test_group_dro.py", *contract("group_dro")),
    "also_optax/rules/kl_cvar.py": (*BATCH_RULES, *contract("kl_cvar"), "-k", "kl_cvar"),
    "also_optax/rules/rgd.py": (SETTINGS, "tests/test_rgd.py", *contract("rgd"), "-k", "not checkpoint"),
    "also_optax/rules/spectral_risk.py": (
        *BATCH_RULES, *contract("spectral_risk", "spectral_risk_kl"),
        "-k", "superquantile or extremile or spectral or spectrum or mass or smooth",
    ),
    "also_optax/rules/tilted.py": (SETTINGS, "tests/test_tilted.py", *contract("tilted", "tilted_groups")),
}  # fmt: skip
"""Arguments of pytest by module, the likeliest to fail first."""
