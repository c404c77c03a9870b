"""If rows see other slates, or a choice sees the test part, a comparison of methods is a comparison of luck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mmrank import components
from mmrank.errors import ConfigError, UnknownComponentError
from mmrank.features import build_features
from mmrank.metrics import METRICS, slate_metrics
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import EvaluationSettings, Settings, TrainingSettings
from mmrank.slates import Slate, collate
from simulations._intervals import ci95, difference, gain_ratio
from simulations.evaluation import CHUNK, Evaluator, RowResult, pooled
from simulations.rows import RowContext, RowSkippedError, build_row, measure_rows
from simulations.rows._ranker import ranker_scorer
from tests.toys import toy_catalog, toy_model, toy_slates

ROWS = components.available("simulations.rows")
PARTS = {"train": (0, 12), "validation": (12, 16), "test": (16, 20)}


class ToyDataset:
    """Twelve people with twenty slates each; some have nothing relevant, and client-5 has nothing but training."""

    name, version, synthetic, simulation_only = "toy", "1", True, None

    def __init__(self, *, oracle: bool = True) -> None:
        self.catalog = toy_catalog()
        self.client_ids = [f"client-{index}" for index in range(12)]
        self.oracle = oracle

    def kind(self, client_id: str) -> str:
        return "device"

    def data_identity(self, client_id: str) -> str:
        return f"toy/{client_id}"

    def slates(self, client_id: str, split: str) -> list[Slate]:
        index = self.client_ids.index(client_id)
        if index == 5 and split != "train":
            return []
        first, end = PARTS[split]
        made = toy_slates(20, seed=index)[first:end]
        made[0] = replace(made[0], relevance=np.zeros_like(made[0].relevance))
        return [replace(slate, user=0, oracle=slate.relevance if self.oracle else None) for slate in made]


def settings(**changes) -> Settings:
    evaluation = EvaluationSettings(**{"centralised_epochs": 3, "local_only_steps": 4, "bootstrap": 200, **changes})
    return Settings(model=toy_model(), training=TrainingSettings(slate_length=8), evaluation=evaluation)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return build_features(toy_catalog(), toy_model(), cache_dir=tmp_path_factory.mktemp("cache"))


def make_context(features, *, dataset=None, seed=0, **changes) -> RowContext:
    chosen = settings(**changes)
    dataset = dataset or ToyDataset()
    evaluator = Evaluator(dataset, chosen.evaluation, history_length=chosen.model.history_length, seed=0)
    return RowContext(settings=chosen, dataset=dataset, features=features, evaluator=evaluator, seed=seed)


@pytest.fixture
def context(features):
    return make_context(features)


def result(values, owner) -> RowResult:
    return RowResult(
        values={name: np.array(values, float) for name in METRICS}, owner=np.array(owner), clients=max(owner) + 1
    )


def test_a_client_with_many_slates_weighs_no_more_than_one_with_few():
    row = result([1.0, 1.0, 1.0, 0.0, np.nan, 0.5], [0, 0, 0, 1, 1, 2])
    np.testing.assert_allclose(row.client_means("mrr"), [1.0, 0.0, 0.5])
    assert row.mean("mrr") == 0.5
    np.testing.assert_allclose(row.client_means("mrr", np.arange(6) >= 4), [np.nan, np.nan, 0.5])


def test_seeds_are_averaged_within_a_client_before_anything_else():
    one, two = result([1.0, 0.0, np.nan], [0, 1, 1]), result([0.5, 1.0, np.nan], [0, 1, 1])
    np.testing.assert_allclose(pooled([one, two]).client_means("hit@3"), [0.75, 0.5])


def test_interval_agrees_with_an_independent_bootstrap():
    values = np.random.default_rng(0).beta(2, 5, 80)
    ours = ci95(np.append(values, np.nan), samples=4000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert ours["mean"] == pytest.approx(values.mean())
    assert ours["ci95"] == pytest.approx([theirs.low, theirs.high], abs=0.004)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(4)
    covered = []
    for trial in range(300):
        low, high = ci95(draw.exponential(1.0, 60), samples=300, seed=trial)["ci95"]
        covered.append(low <= 1.0 <= high)
    assert 0.89 < np.mean(covered) < 0.98


def test_nobody_and_one_client_have_no_invented_interval():
    assert ci95(np.array([np.nan]), samples=10, seed=0) == {"mean": None, "ci95": [None, None]}
    assert ci95(np.array([0.25]), samples=10, seed=0) == {"mean": 0.25, "ci95": [0.25, 0.25]}


def test_gain_ratio_is_paired_by_client():
    draw = np.random.default_rng(0)
    content = draw.uniform(0, 1, 50)  # clients differ far more than rows do
    centralised = content + draw.normal(0.1, 0.02, 50)
    given = {"samples": 500, "seed": 0}
    assert gain_ratio(content, content, centralised, **given) == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert gain_ratio(centralised, content, centralised, **given) == {"mean": 1.0, "ci95": [1.0, 1.0]}
    halfway = gain_ratio(content + 0.5 * (centralised - content), content, centralised, **given)
    assert halfway["mean"] == pytest.approx(0.5)
    assert halfway["ci95"] == pytest.approx([0.5, 0.5])
    noisy = gain_ratio(content + draw.normal(0.09, 0.05, 50), content, centralised, **given)
    assert noisy["ci95"][0] < noisy["mean"] < noisy["ci95"][1]
    assert noisy["ci95"][1] - noisy["ci95"][0] < 0.5
    assert difference(centralised, content, **given)["mean"] == pytest.approx((centralised - content).mean())


def test_a_share_of_no_gain_is_a_sentence_and_not_a_number():
    draw = np.random.default_rng(0)
    content = draw.uniform(0, 1, 50)
    why = gain_ratio(content, content, content + draw.normal(0, 0.1, 50), samples=200, seed=0)
    assert "not surely above 0" in why
    assert "no client" in gain_ratio(np.array([np.nan]), content[:1], content[:1], samples=200, seed=0)


def test_every_row_is_measured_on_the_same_slates(context):
    met = []

    def scorer(chunk):
        met.append([(client, slate.time_days) for client, slate in zip(chunk.clients, chunk.slates, strict=True)])
        return np.zeros(chunk.batch.candidates.shape)

    context.evaluator.measure(scorer, "test")
    context.evaluator.measure(scorer, "test")
    half = len(met) // 2
    assert met[:half] == met[half:]
    again = make_context(context.features).evaluator
    assert again.client_ids("test") == context.evaluator.client_ids("test")


def test_slates_that_do_not_count_are_counted(features):
    evaluator = make_context(features, max_slates_per_client=2).evaluator
    assert evaluator.slates("test") == 22
    assert "client-5" not in evaluator.client_ids("test")
    out = evaluator.left_out("test")
    assert out["nothing relevant"] >= 11
    assert out["nothing relevant"] + out["beyond evaluation.max_slates_per_client"] == 44 - 22
    assert len(make_context(features, clients=3).evaluator.client_ids("test")) == 3


def test_measures_are_those_of_the_metrics_module_whatever_the_chunks(context):
    evaluator = context.evaluator
    draw = np.random.default_rng(0).random(40)
    measured = evaluator.measure(lambda chunk: draw[chunk.batch.candidates.numpy()], "test")
    slates = [
        slate
        for client in evaluator.client_ids("test")
        for slate in context.dataset.slates(client, "test")
        if (slate.relevance > 0).any()
    ]
    batch = collate(slates, history_length=6)
    expected = slate_metrics(draw[batch.candidates.numpy()], batch.relevance.numpy(), batch.candidate_mask.numpy())
    assert len(slates) < CHUNK
    for name in METRICS:
        np.testing.assert_allclose(measured.values[name], expected[name])
    few = evaluator.measure(lambda chunk: draw[chunk.batch.candidates.numpy()], "test", clients=4)
    np.testing.assert_allclose(few.client_means("mrr"), measured.client_means("mrr")[:4])


def test_choices_see_validation_only(context):
    times = []

    def scorer_of(quality):
        def scorer(chunk):
            times.extend(slate.time_days for slate in chunk.slates)
            return quality * chunk.batch.relevance.numpy()

        return scorer

    choice, value = context.evaluator.choose([("bad", scorer_of(-1)), ("good", scorer_of(1)), ("same", scorer_of(2))])
    assert (choice, value) == ("good", 1.0)
    assert min(times) >= PARTS["validation"][0]
    assert max(times) < PARTS["validation"][1]
    with pytest.raises(ConfigError):
        context.evaluator.choose([])


def test_groups_split_the_slates(context):
    groups = context.evaluator.groups("test", np.arange(5))
    assert set(groups) == {"warm_users", "cold_users", "with_query", "without_query", "warm_items", "cold_items"}
    for yes, no in (("warm_users", "cold_users"), ("with_query", "without_query"), ("warm_items", "cold_items")):
        assert (groups[yes] ^ groups[no]).all()
        assert groups[yes].any()
    row = context.evaluator.measure(build_row("random", context), "test")
    parts = [context.evaluator.summary(row, groups[name])["slates"] for name in ("with_query", "without_query")]
    assert sum(parts) == context.evaluator.summary(row)["slates"] == context.evaluator.slates("test")


@pytest.mark.parametrize("name", ROWS)
def test_every_row_gives_one_finite_score_a_candidate_and_repeats(features, name):
    context = make_context(features)
    results, skipped = measure_rows([name], context)
    again, _ = measure_rows([name], make_context(features))
    assert not skipped
    for measure in METRICS:
        assert np.isfinite(results[name].values[measure]).all()
        np.testing.assert_array_equal(results[name].values[measure], again[name].values[measure])


def test_oracle_is_perfect_and_chance_is_exact(context):
    results, _ = measure_rows(["oracle", "random"], context)
    assert results["oracle"].mean() == 1.0
    batch = collate([slate for slate in toy_slates(4) if slate.relevance.any()], history_length=6)
    relevance, mask = (np.tile(part.numpy(), (3000, 1)) for part in (batch.relevance, batch.candidate_mask))
    drawn = slate_metrics(np.random.default_rng(0).random(mask.shape), relevance, mask)["ndcg@10"].mean()
    exact = slate_metrics(np.zeros(mask.shape), relevance, mask)["ndcg@10"].mean()
    assert exact == pytest.approx(drawn, abs=0.01)


def test_a_row_that_cannot_be_computed_says_why(features):
    context = make_context(features, dataset=ToyDataset(oracle=False))
    results, skipped = measure_rows(["random", "oracle"], context)
    assert list(results) == ["random"]
    assert skipped == {"oracle": "toy does not know the true ranking"}
    with pytest.raises(UnknownComponentError, match="Did you mean 'popularity'"):
        build_row("popularty", context)


def test_content_orders_as_an_untrained_ranker(context):
    ranker = build_ranker(context.settings.model, seed=0)
    untrained = ranker_scorer(ranker, context.features, parameters_of(ranker))
    content, start = (context.evaluator.measure(s, "test") for s in (build_row("content", context), untrained))
    for name in METRICS:
        np.testing.assert_allclose(content.values[name], start.values[name], atol=1e-9)


def test_unpersonalised_is_the_score_of_slates_without_history(context):
    ranker = build_ranker(context.settings.model, seed=0)
    trained = {name: array + 0.1 for name, array in parameters_of(ranker).items()}
    scorer = ranker_scorer(ranker, context.features, trained, empty_history=True)
    seen = []

    def compare(chunk):
        scores = scorer(chunk)
        stranger = collate([slate.without_history() for slate in chunk.slates], history_length=6)
        expected = ranker_scorer(ranker, context.features, trained)(replace(chunk, batch=stranger))
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        seen.append(len(scores))
        return scores

    context.evaluator.measure(compare, "test")
    assert seen


def test_bm25_finds_the_words_of_the_query(context):
    scorer = build_row("bm25", context)
    titles = context.dataset.catalog.titles

    def check(chunk):
        scores = scorer(chunk)
        for row, slate in enumerate(chunk.slates):
            if slate.query == "running shoes":
                hits = np.array(["running shoes" in titles[item] for item in slate.candidates])
                if hits.any() and not hits.all():
                    assert scores[row][hits].min() > scores[row][~hits].max()
            elif not slate.query:
                assert (scores[row] == 0).all()
        return scores

    assert context.evaluator.measure(check, "test").mean() > 0


def test_behaviour_of_the_test_part_reaches_no_row(context):
    events = context.train_events
    assert events.time_days.max() < PARTS["validation"][0]
    chosen = {
        (client, int(item), slate.time_days)
        for client in context.dataset.client_ids
        for slate in context.dataset.slates(client, "train")
        for item in slate.candidates[slate.relevance > 0]
    }
    people = events.person.max() + 1
    assert people == len(context.dataset.client_ids)
    assert {item for _, item, _ in chosen} <= set(context.seen_items.tolist())


def test_popularity_counts_choices_of_the_training_part(features):
    class Fashion(ToyDataset):
        def slates(self, client_id, split):
            made = super().slates(client_id, split)
            return [replace(s, relevance=(s.candidates == s.candidates.min()).astype(np.float32)) for s in made]

    context = make_context(features, dataset=Fashion())
    results, _ = measure_rows(["popularity", "random"], context)
    assert results["popularity"].mean() > results["random"].mean() + 0.1
    assert context.choices["popularity"] > 0


def test_collaborative_rows_learn_who_likes_what(features):
    context = make_context(features)
    results, _ = measure_rows(["collaborative", "collaborative_knn", "collaborative_ials", "random"], context)
    better = context.choices["collaborative"]
    np.testing.assert_array_equal(results["collaborative"].values["mrr"], results[better].values["mrr"])
    assert results["collaborative"].mean() > results["random"].mean()


def test_trained_rows_are_chosen_on_validation_once_and_kept_for_other_seeds(context):
    reports = []
    context.on_progress = lambda row, done, total: reports.append((row, done <= total))
    first = context.evaluator.measure(build_row("centralised", context), "validation").mean()
    content = context.evaluator.measure(build_row("content", context), "validation").mean()
    assert first >= content  # leaving the model as it was is one of the choices
    chosen = context.choices["centralised"]
    other = context.for_seed(1)
    build_row("centralised", other)
    assert other.choices["centralised"] is chosen
    assert reports
    assert all(row == "centralised" and inside for row, inside in reports)


def test_rows_that_pool_too_many_clients_are_skipped(features, monkeypatch):
    monkeypatch.setattr("simulations.rows.POOLED_CLIENTS", 11)
    context = make_context(features)
    _, skipped = measure_rows(["popularity", "centralised", "collaborative"], context)
    assert set(skipped) == {"popularity", "centralised", "collaborative"}
    assert "12 clients; at most 11" in skipped["centralised"]
    with pytest.raises(RowSkippedError):
        _ = context.train_events
