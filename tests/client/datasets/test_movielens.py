"""If a title loses its article, its accents or its film, the figures can be compared with nobody's."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.datasets import movielens
from client.datasets._source import CLICK
from mmrank.errors import ConfigError, DatasetError
from tests.client.datasets import fixtures_logs as logs
from tests.client.datasets.fixtures_logs import found, read_logs, write_lines
from tests.client.datasets.injured_logs import INJURIES, read_injured

UTF8 = partial(logs.write_movielens_1m, encoding="utf-8")
LAYOUTS = pytest.mark.parametrize(
    "write", [logs.write_movielens, logs.write_movielens_1m, UTF8, logs.write_movielens_100k]
)
TITLES = (
    "Toy Story (1995). Adventure Animation Children's Comedy",
    "The American President (1995). Comedy Drama Romance",
    "The City of Lost Children (Cité des enfants perdus, La) (1995). Adventure Sci-Fi",
    "Les Misérables (1995). Drama Musical",
    "Star Wars: Episode IV - A New Hope (1977). Action Adventure Sci-Fi",
    '"Great Performances" Cats (1998). Musical',
    "L'Enfer (1994). Drama",
)
SPLIT = {"validation_from": "1970-01-05", "test_from": "1970-01-06"}


@LAYOUTS
def test_films_are_the_same_in_every_layout(tmp_path, write):
    write(tmp_path)
    source = read_logs(movielens, tmp_path)
    catalog = source.catalog
    assert catalog.item_ids == tuple(str(item) for item in range(1, logs.ITEMS + 1))
    assert catalog.titles[: len(TITLES)] == TITLES
    assert [catalog.category_names[code] for code in catalog.categories[:7]] == [
        *("Adventure", "Comedy", "Adventure", "Drama", "Action", "Musical", "Drama")
    ]
    assert list(source.findings) == []


@LAYOUTS
def test_ratings_are_the_same_in_every_layout(tmp_path, write):
    write(tmp_path)
    events = read_logs(movielens, tmp_path, liked=3.4).events
    rows = list(logs.ratings())
    np.testing.assert_array_equal(events.item, [item - 1 for _, item, _, _ in rows])
    np.testing.assert_array_equal(events.user, [person - 1 for person, _, _, _ in rows])
    np.testing.assert_allclose(events.time * 86_400, [second for *_, second in rows], rtol=0, atol=0.1)
    np.testing.assert_array_equal(events.relevance, [stars >= 4 for _, _, stars, _ in rows])
    assert set(events.kind) == {CLICK}


def test_a_film_without_genres_has_no_category(tmp_path):
    logs.write_movielens(tmp_path)
    catalog = read_logs(movielens, tmp_path).catalog
    assert catalog.titles[-1] == "Film"
    assert catalog.category_names[catalog.categories[-1]] == ""


def test_a_days_ratings_are_one_slate_against_what_was_seen_and_not_liked(tmp_path):
    logs.write_movielens_1m(tmp_path)
    acts = ["1::3::5::0", "1::1::2::60", "1::2::4::86400", "2::1::4::86400", "1::4::5::600000"]
    write_lines(tmp_path / "ratings.dat", acts)
    films = movielens.load(root=tmp_path, split=SPLIT, candidates={"from": "catalogue", "negatives": 3})
    assert films.client_ids == ("1", "2")
    first, second = films.slates("1", "train")
    np.testing.assert_array_equal(first.candidates[first.relevance > 0], [2])
    assert {0, 2} < set(first.candidates.tolist())
    assert len(first.candidates) == 4
    assert (first.position == -1).all()
    np.testing.assert_array_equal(second.candidates[second.relevance > 0], [1])
    np.testing.assert_array_equal(second.history, [2, 0])
    np.testing.assert_allclose(second.age_days, [1, 1 - 60 / 86_400], atol=1e-6)
    (last,) = films.slates("1", "test")
    np.testing.assert_array_equal(last.history, [2, 0, 1])
    assert films.slates("2", "test") == []


def test_posters_are_found_by_film(tmp_path):
    logs.write_movielens_100k(tmp_path)
    (tmp_path / "posters").mkdir()
    Image.fromarray(np.full((4, 4, 3), 90, np.uint8)).save(tmp_path / "posters" / "2.jpg")
    catalog = read_logs(movielens, tmp_path).catalog
    assert catalog.images(0) is None
    assert catalog.images(1)[0, 0, 0] == pytest.approx(90, abs=2)


@pytest.mark.parametrize(
    ("write", "films", "separator"),
    [(logs.write_movielens_1m, "movies.dat", "::"), (logs.write_movielens_100k, "u.item", "|")],
)
def test_a_bad_film_is_named_and_the_rest_goes_on(tmp_path, write, films, separator):
    write(tmp_path)
    lines = (tmp_path / films).read_bytes().decode("latin-1").splitlines()
    _, _, rest = lines[0].partition(separator)
    bad = ["61" + separator + "Heat (1995)", separator + rest, lines[0], "61" + separator + rest]
    write_lines(tmp_path / films, [*lines, *bad], encoding="latin-1")
    source = read_logs(movielens, tmp_path)
    assert len(source.catalog) == logs.ITEMS + 1
    assert source.catalog.titles[-1] == TITLES[0]
    assert found(source, "ragged") == [
        f"{films}, line 61: no film, left out; expected id::title::genres (ml-1m), or 24 fields with | between "
        "(ml-100k)"
    ]
    assert found(source, "id") == [f"{films}, line 62: no id; the row is left out"]
    assert found(source, "duplicate_item") == [
        f"{films}, line 63: an item whose id an earlier row has; the row is left out"
    ]


@pytest.mark.parametrize(
    ("write", "ratings", "films", "between"),
    [
        (logs.write_movielens, "ratings.csv", "movies.csv", ","),
        (logs.write_movielens_1m, "ratings.dat", "movies.dat", "::"),
        (logs.write_movielens_100k, "u.data", "u.item", "\t"),
    ],
)
def test_a_bad_rating_is_named_and_the_rest_goes_on(tmp_path, write, ratings, films, between):
    write(tmp_path)
    path = tmp_path / ratings
    before = len(read_logs(movielens, tmp_path).events)
    good = path.read_text().splitlines()
    bad = [("1", "999", "5", "978300760"), ("1", "2", "good", "978300760"), ("1", "2", "5", "soon"), ("1", "2", "5")]
    write_lines(path, [*good, *(between.join(row) for row in bad)])
    source = read_logs(movielens, tmp_path)
    line = len(good) + 1
    assert len(source.events) == before
    assert found(source, "item_join") == [
        f"{ratings}, line {line}: column movieId: an item that {films} lacks; the row is left out"
    ]
    assert found(source, "number") == [f"{ratings}, line {line + 1}: column rating: no number; the row is left out"]
    assert found(source, "time") == [f"{ratings}, line {line + 2}: column timestamp: no time; the row is left out"]
    assert found(source, "ragged")[0].startswith(f"{ratings}, line {line + 3}: a row of")


def test_what_is_no_movielens_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match=r"no MovieLens in it; it should hold movies\.csv and ratings\.csv"):
        read_logs(movielens, tmp_path)
    write_lines(tmp_path / "movies.dat", ["1,Toy Story"])
    with pytest.raises(DatasetError, match=r"movies\.dat: no film in it"):
        read_logs(movielens, tmp_path)
    logs.write_movielens_1m(tmp_path)
    (tmp_path / "ratings.dat").unlink()
    with pytest.raises(DatasetError, match=r"there is no file ratings\.dat"):
        read_logs(movielens, tmp_path)
    with pytest.raises(ConfigError, match=r"dataset\.liked=7\.0 in \[0\.0, 5\.0\]"):
        read_logs(movielens, tmp_path, liked=7)


@LAYOUTS
@settings(max_examples=40, deadline=None)
@given(file=st.integers(0, 1), injuries=INJURIES)
def test_injured_files_are_read_or_refused(write, file, injuries):
    made = read_injured(movielens, write, file, injuries)
    if not isinstance(made, Exception):
        assert len(made.events.item) == len(made.events.user) == len(made.events.time)
        assert (made.events.item < len(made.catalog)).all()
