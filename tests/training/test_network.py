"""Which parts of a network learn."""

import pytest

from resnest_cli.model.resnest import build
from resnest_cli.training.network import freeze, thawing
from tests.networks import TINY


@pytest.mark.parametrize(("what", "units"), [("none", 5), ("stages:0", 4), ("stages:3", 1)])
def test_what_thaws(what: str, units: int) -> None:
    network = build(TINY, num_classes=3)
    freeze(network, what)
    found = thawing(network, what)
    assert len(found) == units
    assert found[0] is network.layer4
    learning = {id(p) for p in network.parameters() if p.requires_grad}
    thawed = {id(p) for module in found for p in module.parameters()}
    assert thawed | {id(p) for p in network.fc.parameters()} == learning
