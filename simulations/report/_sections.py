"""The parts of a run's report, each from plain numbers to HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from simulations.report import _page, _plots

METRICS = ("ndcg@10", "mrr", "recall@10", "hit@3")
GAINERS = ("unpersonalised", "local_only", "federated", "federated_dp", "personalised")
"""Rows of which a share of the centralised gain says something."""
TITLES = {"ndcg@10": "nDCG@10", "mrr": "MRR", "recall@10": "recall@10", "hit@3": "hit@3"}
MEANINGS = {
    "random": "any order",
    "popularity": "what sold most in training",
    "bm25": "words of query and title",
    "content": "zero-shot: the frozen encoders alone, nothing learned",
    "collaborative": "the better of item-kNN and iALS on validation, trained on everybody's data together",
    "unpersonalised": "the reported model, histories emptied",
    "local_only": "each client alone, on its own data",
    "personalised": "the federation's model, each client's own parts fitted over it at home",
    "centralised": "all data in one place: what privacy and distance are measured against",
    "federated": "trained by rounds, without noise",
    "federated_dp": "trained by rounds, differentially private",
    "production": "the ranker that the shop had, by the scores in its tables",
    "oracle": "the generator's own preferences: nothing can do better",
}


def count(number: int, noun: str) -> str:
    """
    >>> count(1, "client"), count(2000, "client")
    ('1 client', '2,000 clients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: Any) -> str:
    """Three significant digits, or infinity; JSON holds the latter as a word."""
    value = float(value)
    return "∞" if value == float("inf") else f"{value:.3g}" if value == value else "–"


def headline(result: Mapping[str, Any]) -> str:
    """What was trained, on what, how well, and under which promise."""
    row, data, privacy = result["reported"], result["dataset"], result["privacy"]
    kinds = " and ".join(count(size, kind) for kind, size in data["kinds"].items() if size)
    measure = result["metrics"].get(row, {}).get("ndcg@10")
    boxes = [] if measure is None else [(f"{measure['mean']:.3f}", f"nDCG@10 of {row} on test")]
    gain = result["gain_ratio"].get(row)
    if gain is not None:
        low, high = gain["ci95"]
        boxes.append((f"{gain['mean']:.2f}", f"of the gain of centralised training [{low:.2f}, {high:.2f}]"))
    private = privacy["mechanism"] != "no_privacy"
    boxes.append((f"ε = {number(privacy['epsilon_max'])}", f"for one {privacy['unit']}" if private else "no privacy"))
    if private and privacy["ledger"] == "throwaway":
        boxes.append(
            ("throw away", "ledger: throwaway, what was spent is forgotten with the run: no promise to anybody")
        )
    boxes.append((str(result["rounds"]), "rounds"))
    boxes.append(
        (f"{result['seconds']['total']:.0f} s", f"in all, {result['client_updates_per_second']:.1f} updates a second")
    )
    lead = (
        f"A ranker with {result['model']['trainable_parameters']:,} trained parameters over {data['items']:,} products "
        f"of {data['name']}, from the behaviour of {kinds}, which stayed where it was."
    )
    return (
        f"<h1>{escape(result['run'])}</h1>"
        + _page.paragraph(lead, kind="lead")
        + _page.cards(boxes)
        + _promise(privacy)
    )


def _promise(privacy: Mapping[str, Any]) -> str:
    if privacy["mechanism"] == "no_privacy":
        return _page.paragraph("No differential privacy: updates left the clients as they were (ε = ∞).")
    text = (
        f"What clients hold is ({number(privacy['epsilon_max'])}, {privacy['delta']:g})-differentially private for one "
        f"{privacy['unit']}: {privacy['adjacency']}; sampler: {privacy['sampler']}; accounted with "
        f"{privacy['accountant']}. The promise is against {privacy['view']}; trusted with the data is "
        f"{privacy['trust']}. Against the server ε = {number(privacy['epsilon_server_view'])}. "
        f"{number(privacy['epsilon_median'])} of a budget of {number(privacy['budget'])} is the median client's."
    ) + _people(privacy)
    seeded = (
        " The noise came from a seed, so that this simulation repeats: the ε is the one that the same plan has with "
        "secret noise."
        if privacy["noise"] == "seeded"
        else ""
    )
    return _page.paragraph(text + seeded)


def _people(privacy: Mapping[str, Any]) -> str:
    """What those pay who are more than one unit."""
    slates, event = privacy.get("person_with_slates"), privacy.get("event_in_histories")
    text = ""
    if slates and event:
        text += " A person has more than one slate and is protected less: " + ", ".join(
            f"ε = {number(value)} with {units} slates" for units, value in slates.items()
        )
        text += f"; one event that stands in {event['histories']} later histories: ε = {number(event['epsilon'])}."
    if privacy.get("person_at_two_merchants"):
        both = privacy.get("person_at_two_merchants_with_slates")
        told = " with one slate at each" if both else ""
        text += f" Somebody at two merchants of this plan{told}: ε = {number(privacy['person_at_two_merchants'])}"
        text += "".join(f"; with {units} at each: ε = {number(value)}" for units, value in (both or {}).items()) + "."
    if privacy.get("noise_cohort_size"):
        text += (
            f" The noise is that of a cohort of {privacy['noise_cohort_size']}, for which the simulated one stands: ε "
            "belongs to the large one."
        )
    return text


def rows_section(result: Mapping[str, Any]) -> str:
    """Every row with its interval, the gain ratios, and what was skipped."""
    metrics = result["metrics"]
    dots = [
        _plots.Dot(
            name=row, row=row, mean=m["ndcg@10"]["mean"], low=m["ndcg@10"]["ci95"][0], high=m["ndcg@10"]["ci95"][1]
        )
        for row, m in metrics.items()
    ]
    lines = []
    for row, measures in sorted(metrics.items(), key=lambda pair: -pair[1]["ndcg@10"]["mean"]):
        gain = result["gain_ratio"].get(row)
        dot = f'<span class="dot" style="background:{_plots.colour(row)}"></span>'
        lines.append(
            [
                f"{dot}{escape(row)}<small class='soft'>{escape(MEANINGS.get(row, ''))}</small>",
                *(_interval(measures[name]) for name in METRICS),
                _interval(gain, digits=2) if gain and row in GAINERS else "",
            ]
        )
    slates = max((measures["slates"] for measures in metrics.values()), default=0)
    clients = max((measures["clients"] for measures in metrics.values()), default=0)
    text = (
        f"The test part, read once: {count(slates, 'slate')} of {count(clients, 'client')}, the same for every row. "
        "Intervals are 95%, by bootstrap over clients, of the mean over the seeds. Gain is (row − content) / "
        "(centralised − content), paired by client."
    )
    skipped = [f"{name}: {reason}" for name, reason in result["skipped"].items()]
    return _page.section(
        "What it learned",
        _page.paragraph(text, kind="soft"),
        _plots.dots(dots, label="nDCG@10 on test") if dots else "",
        _page.table(("row", *(TITLES[name] for name in METRICS), "gain"), lines),
        _page.paragraph("Not computed: " + "; ".join(skipped) + ".", kind="soft") if skipped else "",
    )


def curve_section(curves: Sequence[Mapping[str, str]], result: Mapping[str, Any]) -> str:
    """Validation nDCG@10 by round, mean over the seeds, with what needs no rounds as lines across."""
    points: dict[str, dict[int, list[float]]] = {}
    for line in curves:
        points.setdefault(line["row"], {}).setdefault(int(line["round"]), []).append(float(line["ndcg@10"]))
    means = {
        row: [(step, sum(values) / len(values)) for step, values in sorted(by_round.items())]
        for row, by_round in points.items()
    }
    if not means:
        return ""
    levels = {row: value for row, value in result["validation"].items() if row in ("content", "centralised")}
    return _page.section(
        "How it learned",
        _page.paragraph(
            "Validation slates, after each evaluated round, mean over the seeds. Every choice was made on these; "
            "round 0 is the model before training, which orders as the encoders do.",
            kind="soft",
        ),
        _plots.learning_curve(means, levels),
    )


def epsilon_section(rounds: Sequence[Mapping[str, str]], result: Mapping[str, Any]) -> str:
    """The ledgers, round by round."""
    if result["privacy"]["mechanism"] == "no_privacy" or not rounds:
        return ""
    steps = [int(line["round"]) for line in rounds]
    largest = [float(line["epsilon_max"]) for line in rounds]
    median = [float(line["epsilon_median"]) for line in rounds]
    refused = sum(int(line["exhausted"]) for line in rounds)
    dropped = sum(int(line["dropped"]) for line in rounds)
    charged = (
        "The server charges one ledger for every registered client before it draws a round's cohort, drawn or not. "
        if result["privacy"].get("noise_at") == "central"
        else "Each client charges its own ledger before it trains, and answers 'exhausted' where its budget is spent. "
    )
    text = f"{charged}{count(refused, 'request')} met a spent budget; {count(dropped, 'answer')} could not be used."
    return _page.section(
        "What privacy it cost",
        _page.paragraph(text, kind="soft"),
        _plots.epsilon_curve(steps, largest, median, float(result["privacy"]["budget"])),
    )


def clients_section(stored: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Who gains: each client's nDCG@10 under the reported row, less under content; `stored` is debug/clients.json."""
    row = result["reported"]
    values = stored.get("ndcg@10", {})
    pairs = zip(values.get(row, []), values.get("content", []), strict=False)
    changes = [ours - base for ours, base in pairs if ours is not None and base is not None]
    if not changes:
        return ""
    better = sum(change > 1e-9 for change in changes) / len(changes)
    worse = sum(change < -1e-9 for change in changes) / len(changes)
    text = (
        f"Each client's mean nDCG@10 under {row}, less its own under content. Of {count(len(changes), 'client')} "
        f"{better:.0%} gain, {worse:.0%} lose, and {max(1 - better - worse, 0):.0%} are unchanged."
    )
    return _page.section(
        "Who gains",
        _page.paragraph(text, kind="soft"),
        _plots.histogram(row, changes, label="change in nDCG@10 against content"),
    )


GROUPS = {
    "warm_users": "people with 5 or more earlier events",
    "cold_users": "people with fewer",
    "with_query": "searches",
    "without_query": "browsing, no query",
    "warm_items": "items that somebody chose in training",
    "cold_items": "items that nobody had chosen",
}


def splits_section(result: Mapping[str, Any]) -> str:
    """The main rows on parts of the test slates."""
    splits = result["splits"]
    main = ("content", result["reported"], "centralised")
    shown = [row for row in main if any(row in part for part in splits.values())]
    lines = [
        [
            escape(GROUPS.get(name, name)),
            *(_interval(part[row]["ndcg@10"]) if row in part else "–" for row in shown),
            f"{_slates(part):,}",
        ]
        for name, part in splits.items()
    ]
    if not lines:
        return ""
    return _page.section("Where it helps", _page.table(("nDCG@10", *shown, "slates"), lines))


def off_policy_section(result: Mapping[str, Any]) -> str:
    """What each row would be worth if it were shown, where clicks have propensities."""
    found = result.get("off_policy", {})
    if not found:
        return ""
    lines = [[escape(row), _interval(values["ips"]), _interval(values["snips"])] for row, values in found.items()]
    words = (
        "Clicks on what another ranker showed, each weighed by one over its chance of being seen, at the place where "
        "this row puts the item: the sum (IPS), and as a share of the weights (SNIPS), which varies less."
    )
    table = _page.table(("row", "IPS, DCG", "SNIPS, DCG"), lines)
    return _page.section("If it had been shown", _page.paragraph(words), table)


def left_out_section(result: Mapping[str, Any]) -> str:
    """Slates that could not be measured, by reason."""
    lines = [[escape(reason), f"{slates:,}"] for reason, slates in result["left_out"].items() if slates]
    if not lines:
        return _page.section("Left out", _page.paragraph("No slate was left out.", kind="soft"))
    return _page.section("Left out", _page.table(("why", "slates"), lines))


def timing_section(result: Mapping[str, Any]) -> str:
    """Where the time went, and on what."""
    seconds = result["seconds"]
    phases = [(name, f"{value:.1f} s") for name, value in seconds.items() if name != "total"]
    data = result["dataset"]
    return _page.section(
        "Time, memory, provenance",
        _page.facts(
            [
                *phases,
                ("total", f"{seconds['total']:.1f} s"),
                ("peak memory", f"{result['peak_rss_mb']:.0f} MB"),
                ("engine, device", f"{result['engine']}, {result['device']}"),
                ("data set", f"{data['name']}, version {data['version']}"),
                ("configuration", result["config_sha256"][:16]),
                ("commit", result["commit"] or "unknown"),
                ("seed", str(result["seed"])),
            ]
        ),
    )


def _interval(measure: Mapping[str, Any], *, digits: int = 3) -> str:
    low, high = measure["ci95"]
    return f"{measure['mean']:.{digits}f}<small class='soft'>{low:.{digits}f} – {high:.{digits}f}</small>"


def _slates(part: Mapping[str, Mapping[str, Any]]) -> int:
    return max((measures["slates"] for measures in part.values()), default=0)
