"""At stake: what words look like, learned from the public catalogue alone."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mmrank._style import text_looks

ITEMS, WIDTH, DIM = 300, 12, 5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def catalogue():
    """Titles whose pictures follow from their words, with some noise; every seventh item has no picture."""
    draw = np.random.default_rng(4)
    text = unit(draw.normal(size=(ITEMS, WIDTH))).astype(np.float32)
    style = unit(text @ draw.normal(size=(WIDTH, DIM)) + 0.3 * draw.normal(size=(ITEMS, DIM)))
    other = unit(draw.normal(size=(ITEMS, DIM)))
    present = np.ones((ITEMS, 2), bool)
    present[::7, 1] = False
    style[~present[:, 1]] = 0.0
    return text, np.concatenate([other, style], axis=1).astype(np.float32), present


def test_it_is_the_ridge_regression_of_style_on_words_scaled_to_length_one(catalogue):
    text, style, present = catalogue
    looks = text_looks(text, style, present)
    seen = present[:, 1]
    reference = Ridge(alpha=seen.sum() / WIDTH, fit_intercept=False).fit(text[seen], style[seen, DIM:]).coef_.T
    reference /= np.linalg.norm(text[seen] @ reference, axis=1).mean()
    np.testing.assert_allclose(looks[:, DIM:], reference, rtol=0, atol=1e-5)
    for half, columns in enumerate((slice(0, DIM), slice(DIM, None))):
        rows = text[present[:, half]] @ looks[:, columns]
        assert np.linalg.norm(rows, axis=1).mean() == pytest.approx(1.0, abs=1e-5)


def test_new_words_look_like_the_pictures_of_such_words(catalogue):
    text, style, present = catalogue
    held = present[:, 1] & (np.arange(ITEMS) % 2 == 0)
    looks = text_looks(text, style, present & ~held[:, None])
    told = text[held] @ looks
    alike = (unit(told[:, DIM:]) * style[held, DIM:]).sum(1)
    assert alike.mean() > 0.7
    assert abs((unit(told[:, :DIM]) * style[held, :DIM]).sum(1).mean()) < 0.2  # noise has no looks to learn


def test_an_item_without_a_picture_says_nothing_of_pictures(catalogue):
    text, style, present = catalogue
    changed = style.copy()
    changed[~present[:, 1], DIM:] = 9.0
    np.testing.assert_array_equal(text_looks(text, style, present), text_looks(text, changed, present))


def test_a_catalogue_without_pictures_has_no_looks(catalogue):
    text, style, present = catalogue
    looks = text_looks(text, style, np.stack([present[:, 0], np.zeros(ITEMS, bool)], axis=1))
    assert not looks[:, DIM:].any()
    assert looks[:, :DIM].any()
