"""At stake: the score a person sees, from the words asked for, the item's sides, and their own history alone."""

import dataclasses

import numpy as np
import pytest
import torch

from mmrank import components
from mmrank.errors import ConfigError
from mmrank.features import build_features
from mmrank.ranker import PRIOR_START, PRIOR_WEIGHTS, build_ranker, gather, load_parameters, parameters_of
from mmrank.slates import collate
from tests.toys import toy_catalog, toy_model, toy_slates


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return build_features(toy_catalog(), toy_model(), cache_dir=tmp_path_factory.mktemp("features"))


def random_ranker(model=None, seed=0):
    """A ranker none of whose weights is zero, as training would leave it."""
    ranker = build_ranker(model or toy_model(), seed=seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return ranker


def scores_of(ranker, slates, features):
    batch = collate(slates, history_length=ranker.model.history_length)
    return ranker.eval()(gather(batch, features, ranker.model)), batch


def test_an_untrained_ranker_orders_as_the_zero_shot_similarities_do(features):
    ranker = build_ranker(toy_model(), seed=3)
    batch = collate(toy_slates(6), history_length=6)
    inputs = gather(batch, features, ranker.model)
    torch.testing.assert_close(
        ranker(inputs), PRIOR_START * inputs["prior"] @ torch.tensor(list(PRIOR_WEIGHTS.values()))
    )


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = parameters_of(build_ranker(toy_model(), seed=5))
    state = torch.get_rng_state()
    second = parameters_of(build_ranker(toy_model(), seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[k], v) for k, v in parameters_of(build_ranker(toy_model(), seed=6)).items())


def test_every_parameter_has_a_dimension_and_the_private_part_is_small():
    parameters = parameters_of(build_ranker(toy_model(dim=32, feature_dim=64), seed=0))
    assert all(array.ndim >= 1 and array.dtype == np.float32 for array in parameters.values())
    assert 5_000 <= sum(array.size for array in parameters.values()) <= 50_000


def test_loading_is_the_inverse_of_reading():
    source, target = random_ranker(), build_ranker(toy_model(), seed=1)
    load_parameters(target, parameters_of(source))
    assert all(np.array_equal(v, parameters_of(target)[k]) for k, v in parameters_of(source).items())
    with pytest.raises(KeyError):
        load_parameters(target, {})


@pytest.mark.parametrize("behaviour", components.available("mmrank.encoders.behaviour"))
@pytest.mark.parametrize("fusion", components.available("mmrank.fusion"))
def test_an_empty_history_gives_exactly_the_unpersonalised_score(features, behaviour, fusion):
    model = toy_model(behaviour={"name": behaviour}, fusion={"name": fusion})
    ranker, alone = random_ranker(model), random_ranker(model)
    alone.behaviour = None
    alone.eval()
    strangers = [slate.without_history() for slate in toy_slates(5)]
    personal, batch = scores_of(ranker, strangers, features)
    assert torch.equal(personal, alone(gather(batch, features, model)))
    assert not torch.equal(scores_of(ranker, toy_slates(5), features)[0], personal)


def test_slates_do_not_touch_one_another(features):
    ranker, slates = random_ranker(), toy_slates(5)
    together, _ = scores_of(ranker, slates, features)
    for row, slate in enumerate(slates):
        torch.testing.assert_close(scores_of(ranker, [slate], features)[0][0], together[row])


def test_permuting_the_candidates_permutes_the_scores(features):
    ranker, slate = random_ranker(), toy_slates(1)[0]
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    turned = dataclasses.replace(
        slate, candidates=slate.candidates[order], relevance=slate.relevance[order], position=slate.position[order]
    )
    straight = scores_of(ranker, [slate], features)[0][0]
    torch.testing.assert_close(scores_of(ranker, [turned], features)[0][0], straight[order])


def test_padding_is_inert(features):
    ranker, slates = random_ranker(), toy_slates(3)
    scores, _ = scores_of(ranker, slates, features)
    wide = collate(slates, history_length=6, slate_length=12)
    torch.testing.assert_close(ranker(gather(wide, features, ranker.model))[:, :8], scores)


def test_an_item_without_picture_title_or_price_is_scored_by_what_is_left(features):
    slate = toy_slates(1)[0]
    bare = dataclasses.replace(
        slate, candidates=np.array([2, 3, 4]), relevance=np.ones(3, np.float32), position=np.arange(3)
    )
    scores, batch = scores_of(random_ranker(), [bare], features)
    assert torch.isfinite(scores).all()
    meta = gather(batch, features)["meta"][0, :3]
    assert meta[:, 1:4].tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]


def test_no_slates_at_all(features):
    assert scores_of(random_ranker(), [], features)[0].shape[0] == 0


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("use_event_type", ["event_type", "prior", "style"]),
        ("use_time_gap", ["gap"]),
        ("use_price", ["meta", "match"]),
        ("use_category", ["match"]),
    ],
)
def test_each_behaviour_feature_can_be_switched_off(features, switch, names):
    batch = collate(toy_slates(6), history_length=6)
    on, off = gather(batch, features, toy_model()), gather(batch, features, toy_model(**{switch: False}))
    assert {name for name in on if not torch.equal(on[name], off[name])} == set(names)


@pytest.mark.parametrize("side", ["use_text", "use_image", "use_behaviour"])
def test_each_side_can_be_removed(side, tmp_path):
    model = toy_model(**{side: False})
    features = build_features(toy_catalog(), model, cache_dir=tmp_path)
    scores, _ = scores_of(random_ranker(model), toy_slates(4), features)
    assert torch.isfinite(scores).all()


def test_an_encoder_that_must_be_trained_is_refused_behind_frozen_towers():
    with pytest.raises(ConfigError, match=r"model.image=cnn.*set model.towers=end_to_end"):
        build_ranker(toy_model(image={"name": "cnn"}), seed=0)


def test_position_counts_while_training_and_never_when_ranking(features):
    ranker, slate = random_ranker(), toy_slates(1)[0]
    batch = collate([slate], history_length=6)
    lower = collate([dataclasses.replace(slate, position=slate.position + 5)], history_length=6)
    inputs, other = gather(batch, features, ranker.model), gather(lower, features, ranker.model)
    assert not torch.equal(ranker.train()(inputs), ranker(other))
    assert torch.equal(ranker.eval()(inputs), ranker(other))


def test_a_longer_history_speaks_louder(features):
    slate = toy_slates(1)[0]
    twice = dataclasses.replace(
        slate,
        history=np.repeat(slate.history[-3:], 2),
        event_type=np.full(6, 3),
        age_days=np.repeat(slate.age_days[-3:], 2),
    )
    once = dataclasses.replace(
        slate, history=slate.history[-3:], event_type=np.full(3, 3), age_days=slate.age_days[-3:]
    )
    short = gather(collate([once], history_length=6), features)["style"]
    long = gather(collate([twice], history_length=6), features)["style"]
    torch.testing.assert_close(long, short * (12 / 16) / (6 / 10))


def test_looks_are_those_of_the_words_and_no_words_have_none(features):
    slate = toy_slates(1)[0]
    told, silent = (
        gather(collate([dataclasses.replace(slate, query=query)], history_length=6), features)["looks"]
        for query in ("red shoes", "")
    )
    assert told.any()
    assert not silent.any()
    expected = features.query_rows(["red shoes"])[0] @ features.looks
    torch.testing.assert_close(told[0, 0], expected)


def test_the_looks_of_a_slate_are_the_same_bits_in_any_company(features):
    slates = toy_slates(7)
    together = gather(collate(slates, history_length=6, slate_length=8), features)["looks"]
    for row, slate in enumerate(slates):
        alone = gather(collate([slate], history_length=6, slate_length=8), features)["looks"]
        assert torch.equal(alone[0], together[row])


def test_without_looks_there_is_no_such_parameter(tmp_path):
    model = toy_model(use_looks=False)
    features = build_features(toy_catalog(), model, cache_dir=tmp_path)
    ranker = random_ranker(model)
    assert "looks.weight" not in parameters_of(ranker)
    assert torch.isfinite(scores_of(ranker, toy_slates(4), features)[0]).all()


def test_only_what_is_named_is_trained_and_an_unknown_name_is_refused():
    some = build_ranker(toy_model(trainable=("style", "user_head")), seed=1)
    assert set(parameters_of(some)) == {"style.weight", "user_head.weight"}
    whole = build_ranker(toy_model(), seed=1)
    for (name, one), (_, other) in zip(some.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(ConfigError, match="model.trainable='styel'.*style"):
        build_ranker(toy_model(trainable=("styel",)), seed=1)
