"""Artificial clients: people dealt out at random, by size, or by what they like. For simulations alone.

People are dealt, never rows: a person at two clients would be two units of a promise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.datasets._shaping.settings import ClientSettings
from client.datasets._source import Source
from mmrank.errors import ConfigError, DatasetError, nearest
from mmrank.randomness import numpy_generator

OWN = ("iid", "quantity", "dirichlet")


def deal(source: Source, settings: ClientSettings, *, people: bool, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 [P]: the client of each person, or of each query where not `people`.

    labels: int64 [P], what each likes most. rows: int64 [P], how many each has. The same for one seed, whoever asks.
    Raises ConfigError for an unknown partition, or more clients than people; DatasetError where there is nobody.
    """
    names = source.users if people else source.queries
    if not len(names):
        raise DatasetError(f"{source.name}: no person and no query is in its tables.{source.findings.most_lost()}")
    if len(names) < settings.clients:
        what = "people" if people else "queries"
        raise ConfigError(
            f"Expected dataset.clients.clients={settings.clients} to be at most {len(names)}, the {what} there are; "
            "lower it."
        )
    generator = numpy_generator(settings.seed, "partition", settings.partition)
    if settings.partition == "iid":
        return _by_share(generator, len(names), np.full(settings.clients, 1 / settings.clients))
    if settings.partition == "quantity":
        weight = np.arange(1, settings.clients + 1, dtype=float) ** -settings.exponent
        return _by_share(generator, len(names), weight / weight.sum())
    if settings.partition == "dirichlet":
        return _by_label(generator, labels, settings)
    return _by_library(names, labels, rows, settings)


def _by_share(generator: np.random.Generator, count: int, share: np.ndarray) -> np.ndarray:
    """`count` dealt in those shares, at least one each where there are enough."""
    edges = np.floor(np.cumsum(share) * count + 1e-9).astype(np.int64)
    sizes = np.maximum(np.diff(edges, prepend=0), 1)
    while sizes.sum() > count:
        sizes[np.argmax(sizes)] -= 1
    sizes[np.argmax(sizes)] += count - sizes.sum()
    return generator.permutation(np.repeat(np.arange(len(share)), sizes))


def _by_label(generator: np.random.Generator, labels: np.ndarray, settings: ClientSettings) -> np.ndarray:
    """Each label's people in shares drawn from Dirichlet(alpha): the smaller, the fewer clients share a taste."""
    dealt = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        share = generator.dirichlet(np.full(settings.clients, settings.alpha))
        dealt[rows] = generator.choice(settings.clients, len(rows), p=share)
    return dealt


def _by_library(names: Sequence[str], labels: np.ndarray, rows: np.ndarray, settings: ClientSettings) -> np.ndarray:
    """By a partitioner of flwr-datasets over a table with a row a person."""
    try:
        import datasets
        from flwr_datasets import partitioner as library
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Expected dataset.clients.partition={settings.partition!r} to be one of none, {', '.join(OWN)}, or a "
            "partitioner of flwr-datasets, which is not installed; pip install 'mmrank[partitions]'."
        ) from error
    known = [name for name in library.__all__ if name.endswith("Partitioner") and name != "Partitioner"]
    if settings.partition not in known:
        near = nearest(settings.partition, [*OWN, *known])
        raise ConfigError(
            f"Expected dataset.clients.partition={settings.partition!r} to be one of none, {', '.join([*OWN, *known])}."
            f"{near}"
        )
    table = datasets.Dataset.from_dict(
        {"person": list(range(len(names))), "label": labels.tolist(), "slates": rows.tolist()}
    )
    try:
        made = getattr(library, settings.partition)(**settings.options)
        made.dataset = table
        parts = [made.load_partition(index)["person"] for index in range(made.num_partitions)]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"dataset.clients.options of {settings.partition}: {error}") from error
    dealt = np.full(len(names), -1, np.int64)
    for client, people in enumerate(parts):
        dealt[np.asarray(people, np.int64)] = client
    return dealt
