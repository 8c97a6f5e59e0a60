"""Procedural textures: always the same ones, varied."""

import hashlib

import numpy as np

from input_pipeline.textures import COUNT, RULES, procedural_names, procedural_textures, texture


def test_bank_is_the_same_always_and_varied():
    bank = procedural_textures(32)
    assert bank.shape == (COUNT, 32, 32, 3) and bank.dtype == np.uint8
    np.testing.assert_array_equal(bank[:12], procedural_textures(32, 12))
    assert len({picture.tobytes() for picture in bank}) == COUNT
    contrast = bank.std((1, 2)).mean(-1)
    assert contrast.min() > 5 and np.median(contrast) > 25  # grey levels
    means = bank.mean((1, 2))
    assert (means.std(0) > 25).all()  # of every colour


def test_a_texture_depends_on_its_number_alone():
    np.testing.assert_array_equal(procedural_textures(24, 5)[4], texture(4, 24))
    # Known from another process: coarse levels, which rounding in the last bit hardly moves.
    coarse = procedural_textures(16, 9).mean((1, 2)).round(-1).astype(int)
    assert hashlib.sha256(coarse.tobytes()).hexdigest()[:12] == "510748b0efdf"


def test_names_say_rule_and_number():
    names = procedural_names()
    assert names[:2] == ["noise 0", "marble 1"] and len(set(names)) == COUNT
    assert {name.split()[0] for name in names} == set(RULES)
