"""The table of fields without effect: its rows, and their reasons."""

from itertools import combinations

import pytest

from show1_jax.config.without_effect import LATENT_UNET, PIXEL_UNET, RULES, VAE, refused_fields

KINDS = sorted({kind for row in RULES for kind in row.files})


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_has_one_row_for_each_kind_of_file(kind: str) -> None:
    rows = [row.fields.split() for row in RULES if kind in row.files]
    assert all(not set(one) & set(other) for one, other in combinations(rows, 2))


def test_every_row_has_a_reason() -> None:
    assert all(len(row.reason.split()) > 2 for row in RULES)
    assert len({row.reason for row in RULES}) > len(RULES) - 5


@pytest.mark.parametrize("kind", KINDS)
def test_null_and_false_of_an_unknown_field_switch_nothing_on(kind: str) -> None:
    assert not list(refused_fields(kind, {"new_one": None, "new_two": False, "_private": 3}, {}))
    (line,) = refused_fields(kind, {"new_three": "on"}, {})
    assert line == "new_three = 'on' is not supported: of this field only null and false are"


@pytest.mark.parametrize("kind", [PIXEL_UNET, LATENT_UNET, VAE])
def test_what_a_moving_average_leaves_in_a_config_changes_nothing(kind: str) -> None:
    left = {
        "decay": 0.9999,
        "inv_gamma": 1.0,
        "min_decay": 0.0,
        "optimization_step": 120_000,
        "power": 0.75,
        "update_after_step": 0,
        "use_ema_warmup": True,
    }
    assert not list(refused_fields(kind, left, left))


def test_long_names_and_values_are_cut_short() -> None:
    for line in refused_fields(VAE, {"x" * 10**6: 1, "a\nb": "y\n" * 10**6, "c": 10**400}, {}):
        assert len(line) < 400
        assert "\n" not in line
