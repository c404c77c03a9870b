"""At stake: a new component is one new file, and a wrong name says what there is."""

import pytest

from mmrank import components
from mmrank.errors import ConfigError, UnknownComponentError


def test_an_unknown_name_lists_the_family_and_the_nearest():
    with pytest.raises(
        UnknownComponentError, match=r"No 'softmx' in mmrank.losses; available: .*softmax.*Did you mean 'softmax'"
    ):
        components.load("mmrank.losses", "softmx")


def test_private_modules_are_no_components():
    assert not [name for name in components.available("client.datasets") if name.startswith("_")]


def test_a_setting_that_the_component_does_not_take_is_named():
    with pytest.raises(ConfigError, match="Unknown setting 'sigm' for mmrank.losses.lambdaloss; it takes: sigma"):
        components.build("mmrank.losses", {"name": "lambdaloss", "sigm": 2.0})


def test_the_program_supplies_only_what_the_entry_asks_for():
    assert components.build("mmrank.losses", {"name": "softmax"}, dim=3) is not None
