"""Features of the toy shop, encoded once."""

import pytest

from tests.client.shop import toy_features


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    return toy_features(tmp_path_factory.mktemp("toy-features"))
