"""At stake: who checks our figures with trec_eval must find them, and nobody's behaviour may be copied by accident."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import yaml
from ir_measures import RR, nDCG
from typer.testing import CliRunner

from client.datasets import tables, trec
from client.datasets._shaping.dataset import ShapedDataset
from mmrank.errors import ConfigError, DatasetError, PrivacyError
from mmrank.settings import EvaluationSettings
from simulations._export import export
from simulations._folder import RunFolder
from simulations.commands_export import data_export_app
from simulations.evaluation import Chunk, Evaluator
from simulations.trec import write_qrels, write_run
from tests.client.datasets import shops

UNTIED = ("run.txt", "run-content.txt", "run-unpersonalised.txt", "run-centralised.txt", "run-federated.txt")


def lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield line.split(" ")


def measured(qrels: Path, run: Path) -> dict[str, np.ndarray]:
    """nDCG@10 and RR of each query by ir-measures, which asks trec_eval, in the order of the qrels."""
    place = {name: index for index, name in enumerate(dict.fromkeys(line[0] for line in lines(qrels)))}
    values = {nDCG @ 10: np.full(len(place), np.nan), RR: np.full(len(place), np.nan)}
    found = ir_measures.iter_calc(
        list(values), list(ir_measures.read_trec_qrels(str(qrels))), list(ir_measures.read_trec_run(str(run)))
    )
    for one in found:
        values[one.measure][place[one.query_id]] = one.value
    return {"ndcg@10": values[nDCG @ 10], "mrr": values[RR]}


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    return out, export(finished.folder, (), part="test", out=out)


def test_trec_eval_finds_the_figures_that_the_run_itself_kept(finished, exported):
    out, told = exported
    folder = RunFolder(finished.folder)
    assert {Path(run["file"]).name for run in told["runs"].values()} == {*UNTIED, "run-oracle.txt"}
    for row, run in told["runs"].items():
        with np.load(folder.row(row, finished.result["seed"]), allow_pickle=False) as own:
            theirs = measured(out / "qrels.txt", Path(run["file"]))
            for name in ("ndcg@10", "mrr"):
                if run["tied"]:
                    continue
                np.testing.assert_allclose(theirs[name], own[f"test/{name}"], atol=1e-6, err_msg=f"{row} {name}")
                assert run[name] == pytest.approx(theirs[name].mean(), abs=1e-6)
    assert not any(told["runs"][row]["tied"] for row in ("federated_dp", "content", "centralised"))
    assert "all items of a slate one score" in told["skipped"]["random"]


def test_the_files_are_what_trec_eval_reads(finished, exported):
    out, told = exported
    for name in ("qrels.txt", "run.txt"):
        assert (out / name).stat().st_mode & 0o777 == 0o600
        assert "#" not in (out / name).read_text()
        assert (out / name).read_text().endswith("\n")
    judged: dict[str, set[str]] = {}
    for query, iteration, item, grade in lines(out / "qrels.txt"):
        assert re.fullmatch(r"[a-z0-9._-]+\.test\.[1-9]\d*", query)
        assert iteration == "0"
        assert re.fullmatch(r"\d+", grade)
        assert item not in judged.setdefault(query, set())
        judged[query].add(item)
    assert told["queries"] == len(judged) == finished.result["dataset"]["slates"]["test"]
    assert told["rows"] == sum(map(len, judged.values()))
    ranked: dict[str, list[tuple[float, str]]] = {}
    for query, q0, item, rank, score, tag in lines(out / "run.txt"):
        before = ranked.setdefault(query, [])
        assert (q0, tag) == ("Q0", "federated_dp")
        assert int(rank) == len(before) + 1
        assert not before or (float(score), item) < before[-1]
        before.append((float(score), item))
    assert {query: {item for _, item in items} for query, items in ranked.items()} == judged
    assert {path.name for path in out.iterdir()} == {"qrels.txt", "run-oracle.txt", *UNTIED}


def small(root: Path, **own) -> ShapedDataset:
    """Twelve judged queries, two of them without anything relevant; item ids hold what a run may not."""
    rows = [[f"it em#{index}%", f"title {index}"] for index in range(9)]
    shops.write_csv(root / "items.csv", ["id", "title"], rows)
    judged = [
        [f"query {query}", rows[(query + place) % 9][0], 0 if query in (2, 7) else (query + place) % 3]
        for query in range(12)
        for place in range(6)
    ]
    shops.write_csv(root / "judgments.csv", ["query", "item", "grade"], judged)
    return tables.load(**(settings(root) | own))


def settings(root: Path) -> dict:
    return {
        "root": root,
        "items": {"file": "items.csv", "id": "id", "title": "title"},
        "judgments": {"file": "judgments.csv", "query": "query", "item": "item", "grade": "grade"},
        "split": {"by": "query", "test_fraction": 0.5},
        "clients": "all",
    }


def evaluator(dataset: ShapedDataset, **own) -> Evaluator:
    return Evaluator(dataset, EvaluationSettings(**own), history_length=4, seed=0)


def test_ties_are_broken_as_trec_eval_breaks_them(tmp_path):
    looks = evaluator(small(tmp_path))

    def coarse(chunk: Chunk) -> np.ndarray:
        return np.floor(chunk.batch.candidates.numpy() / 3.0)

    write_qrels(tmp_path / "qrels.txt", looks, "test")
    written = write_run(tmp_path / "run.txt", looks, coarse, "test", tag="coarse")
    assert written.tied == written.queries > 0
    assert written.constant == 0
    grades = {(query, item): int(grade) for query, _, item, grade in lines(tmp_path / "qrels.txt")}
    first: dict[str, float] = {}
    for query, _, item, rank, _, _ in lines(tmp_path / "run.txt"):
        if grades[query, item]:
            first.setdefault(query, 1 / int(rank))
    theirs = measured(tmp_path / "qrels.txt", tmp_path / "run.txt")["mrr"]
    np.testing.assert_allclose(theirs, list(first.values()))
    assert len(set(theirs.tolist())) > 1


def test_scores_that_a_short_float_cannot_tell_apart_keep_their_order(tmp_path):
    looks = evaluator(small(tmp_path))

    def close(chunk: Chunk) -> np.ndarray:
        scores = 1.0 + 1e-12 * chunk.batch.candidates.numpy().astype(np.float64)
        scores[0, 0] = np.nan
        return scores

    write_qrels(tmp_path / "qrels.txt", looks, "test")
    written = write_run(tmp_path / "run.txt", looks, close, "test", tag="close")
    assert not written.tied
    theirs = measured(tmp_path / "qrels.txt", tmp_path / "run.txt")
    for name in ("ndcg@10", "mrr"):
        np.testing.assert_allclose(theirs[name], written.result.values[name], atol=1e-6)


def test_a_query_has_one_name_whichever_slates_are_measured(tmp_path):
    dataset = small(tmp_path)
    write_qrels(tmp_path / "all.txt", evaluator(dataset), "test")
    write_qrels(tmp_path / "two.txt", evaluator(dataset, max_slates_per_client=2), "test")
    everything = list(lines(tmp_path / "all.txt"))
    some = list(lines(tmp_path / "two.txt"))
    assert len({line[0] for line in some}) == 2 < len({line[0] for line in everything})
    assert all(line in everything for line in some)
    relevant = [place for place, slate in enumerate(dataset.slates("all", "test"), 1) if (slate.relevance > 0).any()]
    assert relevant == [1, 3, 4, 5, 6, 7]  # nothing was relevant in the second: trec_eval would count it as 0
    assert {line[0] for line in everything} == {f"all.test.{place}" for place in relevant}


def test_fractional_grades_are_made_whole_together(tmp_path):
    small(tmp_path)
    text = (tmp_path / "judgments.csv").read_text()
    (tmp_path / "judgments.csv").write_text(text.replace(",1\n", ",0.1\n").replace(",2\n", ",0.25\n"))
    looks = evaluator(tables.load(**settings(tmp_path)))

    def spread(chunk: Chunk) -> np.ndarray:
        return (chunk.batch.candidates.numpy() * 5 % 9).astype(np.float32)

    assert write_qrels(tmp_path / "qrels.txt", looks, "test").grades_times == 20
    assert {line[3] for line in lines(tmp_path / "qrels.txt")} == {"0", "2", "5"}
    written = write_run(tmp_path / "run.txt", looks, spread, "test", tag="spread")
    theirs = measured(tmp_path / "qrels.txt", tmp_path / "run.txt")
    np.testing.assert_allclose(theirs["ndcg@10"], written.result.values["ndcg@10"], atol=1e-6)
    (tmp_path / "judgments.csv").write_text(text.replace(",1\n", ",0.0001\n"))
    with pytest.raises(DatasetError, match="whole numbers up to 1,000,000, or thousandths"):
        write_qrels(tmp_path / "qrels.txt", evaluator(tables.load(**settings(tmp_path))), "test")


def test_what_was_exported_reads_back_as_the_same_slates(tmp_path):
    dataset = small(tmp_path)
    looks = evaluator(dataset)

    def spread(chunk: Chunk) -> np.ndarray:
        return (chunk.batch.candidates.numpy() * 5 % 9).astype(np.float32)

    back = tmp_path / "back"
    write_qrels(back / "qrels.test.txt", looks, "test")
    write_qrels(back / "qrels.train.txt", looks, "train")
    write_run(back / "spread.run", looks, spread, "test", tag="spread")
    shops.write_csv(
        back / "collection.tsv",
        ["docid", "title"],
        [[f"it%20em%23{index}%25", f"title {index}"] for index in range(9)],
        delimiter="\t",
    )
    topics = [f"all.{part}.{place}" for part in ("train", "test") for place in range(1, 13)]
    (back / "topics.tsv").write_text("".join(f"{topic}\t{topic}\n" for topic in topics))
    read = trec.load(root=back, clients="all", rows={"spread": "spread.run"}, split="column")
    slates = {slate.query: slate for slate in read.slates("all", "test")}
    assert len(slates) == looks.slates("test")
    for place, slate in enumerate(dataset.slates("all", "test"), 1):
        if not (slate.relevance > 0).any():
            continue
        again = slates[f"all.test.{place}"]
        assert again.candidates.tolist() == slate.candidates.tolist()
        assert again.relevance.tolist() == slate.relevance.tolist()
        assert again.scores["spread"].tolist() == (slate.candidates * 5 % 9).tolist()


def config(tmp_path: Path) -> Path:
    small(tmp_path)
    path = tmp_path / "shop.yaml"
    dataset = {"name": "tables", **settings(tmp_path), "root": str(tmp_path)}
    path.write_text(yaml.safe_dump({"name": "shop", "dataset": dataset}))
    return path


def test_data_of_real_people_are_copied_only_where_somebody_says_so(tmp_path):
    path, out = config(tmp_path), tmp_path / "out"
    with pytest.raises(PrivacyError, match="tables is not synthetic.*no epsilon covers.*add --allow-private-copy"):
        export(path, (), part="test", out=out)
    assert not out.exists()
    told = export(path, (), part="test", out=out, allow_private_copy=True)
    assert told["copy_of_private_data"] is True
    assert (out / "qrels.txt").stat().st_mode & 0o777 == 0o600


def test_a_run_over_data_of_real_people_is_refused_before_they_are_read(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    result = json.loads((folder / "result.json").read_text())
    result["dataset"] |= {"synthetic": False, "name": "hm"}
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(PrivacyError, match="hm is not synthetic"):
        export(folder, (), part="test", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_it_wrote(finished, tmp_path):
    out = tmp_path / "out"
    asked = [str(finished.folder), "--part", "validation", "--row", "content", "--out", str(out), "--json"]
    result = CliRunner().invoke(data_export_app, asked)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert told["copy_of_private_data"] is False
    assert told["qrels"] == str(out / "qrels.txt")
    assert list(told["runs"]) == ["federated_dp", "content"]
    assert {path.name for path in out.iterdir()} == {"qrels.txt", "run.txt", "run-content.txt"}


def test_what_cannot_be_exported_says_why(finished, tmp_path):
    with pytest.raises(ConfigError, match="No row 'contnt'.*Did you mean 'content'"):
        export(finished.folder, (), part="test", out=tmp_path, rows=["contnt"])
    with pytest.raises(ConfigError, match="Expected no --set with a run"):
        export(finished.folder, ["seed=1"], part="test", out=tmp_path)
    with pytest.raises(ConfigError, match="Expected a run's folder with --row"):
        export(finished.config, (), part="test", out=tmp_path, rows=["content"])
    with pytest.raises(ConfigError, match="holds no finished run"):
        export(tmp_path, (), part="test", out=tmp_path)
    assert not list(tmp_path.iterdir())
