"""At stake: an artificial client is some people, whole, each at one client, the same whoever asks again."""

from __future__ import annotations

import numpy as np
import pytest

from client.datasets.tables import load
from mmrank.errors import ConfigError
from tests.client.datasets import shops

PARTITIONS = [
    {"partition": "iid", "clients": 5},
    {"partition": "quantity", "clients": 5, "exponent": 1.5},
    {"partition": "dirichlet", "clients": 5, "alpha": 0.3},
    {"partition": "IidPartitioner", "options": {"num_partitions": 5}},
    {
        "partition": "DirichletPartitioner",
        "options": {"num_partitions": 3, "partition_by": "label", "alpha": 0.5, "min_partition_size": 2, "seed": 1},
    },
    {
        "partition": "PathologicalPartitioner",
        "options": {"num_partitions": 4, "partition_by": "label", "num_classes_per_partition": 2, "seed": 1},
    },
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    shops.write_shop(root, people=60)
    return root


def opened(shop, **clients):
    return load(root=shop, items=shops.ITEMS, events=shops.EVENTS, clients=clients)


def people_of(dataset):
    """The people at each client, by what they have."""
    return {
        client: {slate.user for split in ("train", "validation", "test") for slate in dataset.slates(client, split)}
        for client in dataset.client_ids
    }


@pytest.mark.parametrize("clients", PARTITIONS, ids=lambda clients: clients["partition"])
def test_people_are_dealt_whole_to_one_client_each_and_again_alike(shop, clients):
    found = people_of(opened(shop, **clients))
    everybody = [person for people in found.values() for person in people]
    assert len(everybody) == len(set(everybody))
    assert set(everybody) == {person for people in people_of(opened(shop, by="user")).values() for person in people}
    assert people_of(opened(shop, **clients)) == found
    assert len(found) >= 3


def test_another_seed_deals_otherwise_and_sizes_follow_the_law(shop):
    one, other = (people_of(opened(shop, partition="iid", clients=5, seed=seed)) for seed in (0, 1))
    assert one != other
    sizes = [len(people) for people in people_of(opened(shop, partition="quantity", clients=5, exponent=1.5)).values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[-1]


def test_a_small_alpha_sets_tastes_apart(shop):
    def spread(alpha):
        """How far clients' shares of what people like most are from each other."""
        dataset = opened(shop, partition="dirichlet", clients=4, alpha=alpha)
        rows = []
        for client in dataset.client_ids:
            slates = dataset.slates(client, "train")
            liked = np.concatenate([dataset.catalog.categories[s.candidates[s.relevance > 0]] for s in slates])
            rows.append(np.bincount(liked, minlength=4) / len(liked))
        return float(np.std(rows, axis=0).mean())

    assert spread(0.05) > spread(1000.0)


def test_a_partitioner_that_is_none_is_refused_with_those_that_there_are(shop):
    with pytest.raises(ConfigError, match="PathologicalPartitioner"):
        opened(shop, partition="PathologicPartitioner")
    with pytest.raises(ConfigError, match="dataset.clients.options of IidPartitioner"):
        opened(shop, partition="IidPartitioner", options={"parts": 3})
    with pytest.raises(ConfigError, match="at most 60"):
        opened(shop, partition="iid", clients=61)
