"""At stake: sums that are exact whoever falls out, and refused where too few are left or a share is damaged."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import BelowThresholdError, SecureSumError
from mmrank.secure_sum.client import SumClient
from mmrank.secure_sum.messages import Shares
from mmrank.secure_sum.server import SumServer
from tests.secure_sum.rounds import STEPS, Party, facts, play


def vectors(party: Party, seed: int = 0, low: int = -50, high: int = 50) -> dict[str, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(seed))
    return {name: generator.integers(low, high, party.round_.length) for name in party.round_.cohort}


def residues(values: dict[str, np.ndarray], party: Party) -> dict[str, np.ndarray]:
    return {name: vector & party.round_.largest for name, vector in values.items()}


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_total_is_the_survivors_sum_whoever_falls_out_and_when(data):
    size = data.draw(st.integers(2, 9))
    colluders = data.draw(st.integers(0, max(0, size // 3 - 1)))
    threshold = data.draw(st.integers(max(2, (size + colluders) // 2 + 1), size))
    bits = data.draw(st.sampled_from([9, 16, 20, 32]))
    party = Party(round_=facts(size, threshold, colluders=colluders, bits=bits, length=5))
    fallen = data.draw(st.permutations(party.round_.cohort))[: data.draw(st.integers(0, size - threshold))]
    lost = {step: [] for step in STEPS}
    for name in fallen:
        lost[data.draw(st.sampled_from(STEPS))].append(name)
    values = vectors(party, low=-25, high=25)
    view = play(party, residues(values, party), lost=lost)
    out = {*lost["advert"], *lost["shares"], *lost["masked"]}
    assert view.survivors == tuple(name for name in party.round_.cohort if name not in out)
    assert view.total.tolist() == sum(values[name] for name in view.survivors).tolist()


def test_a_sum_that_passes_the_modulus_wraps_around():
    party = Party(round_=facts(3, 2, bits=8, length=2))
    view = play(party, {name: np.array([100, 200]) for name in party.round_.cohort})
    assert view.total.tolist() == [300 - 256, 600 - 512]


@pytest.mark.parametrize("step", STEPS)
def test_one_client_too_few_at_any_step_ends_the_round_and_exactly_enough_do_not(step):
    def run(fallen):
        party = Party(round_=facts(5, 4))
        return play(party, residues(vectors(party), party), lost={step: party.round_.cohort[:fallen]})

    assert run(1).total is not None
    with pytest.raises(BelowThresholdError, match="threshold=4"):
        run(2)


def test_a_client_that_is_restored_between_all_steps_sums_as_well():
    party = Party(round_=facts(4, 3))

    def restart(step: str) -> None:
        for name, client in party.clients.items():
            bound = {"client": name, "identity": party.identities[name], "roster": party.roster}
            party.clients[name] = SumClient.restore(client.save(), party.round_, **bound)

    values = vectors(party)
    view = play(party, residues(values, party), lost={"masked": ["c02"]}, between=restart)
    assert view.total.tolist() == sum(values[name] for name in view.survivors).tolist()


def test_a_damaged_share_is_noticed_and_no_total_is_given():
    for kind, lost in (("seeds", ()), ("keys", ("c03",))):
        party = Party(round_=facts(4, 3))
        server = SumServer(party.round_, roster=party.roster)
        _until_reveals(server, party, lost)
        for name in sorted(server._confirmations):
            reveal = party.clients[name].unmask(server._confirmations)
            if name == "c01":
                table = getattr(reveal, kind)
                reveal = dataclasses.replace(reveal, **{kind: {**table, max(table): bytes(33)}})
            server.receive_reveal(name, reveal)
        with pytest.raises(SecureSumError, match="don't open it"):
            server.total()


def _until_reveals(server: SumServer, party: Party, lost) -> None:
    for name, client in party.clients.items():
        server.receive_advert(name, client.advertise())
    adverts = server.close_adverts()
    for name, client in party.clients.items():
        server.receive_shares(name, client.share(adverts))
    for name, inbox in server.close_shares().items():
        vector = party.clients[name].mask(np.zeros(8, np.int64), inbox)
        if name not in lost:
            server.receive_masked(name, vector)
    survivors = server.close_masked()
    for name in survivors:
        server.receive_confirmation(name, party.clients[name].confirm(survivors))
    server.close_confirmations()


def test_what_does_not_fit_a_step_is_dropped_and_the_round_goes_on():
    party = Party(round_=facts(4, 3))
    server = SumServer(party.round_, roster=party.roster)
    adverts = {name: client.advertise() for name, client in party.clients.items()}
    server.receive_advert("c00", adverts["c00"])
    for client, advert, match in [
        ("c00", adverts["c00"], "twice"),
        ("zz", adverts["c01"], "not asked"),
        ("c01", adverts["c02"], "signature of c01"),
        ("c01", b"", "bytes"),
    ]:
        with pytest.raises(SecureSumError, match=match):
            server.receive_advert(client, advert)
    for name in ("c01", "c02", "c03"):
        server.receive_advert(name, adverts[name])
    everyone = server.close_adverts()
    good = party.clients["c00"].share(everyone)
    short = Shares(sealed=dict.fromkeys(good.sealed, b""), commitment=good.commitment)
    missing = Shares(sealed=dict(itertools.islice(good.sealed.items(), 2)), commitment=good.commitment)
    for shares in (short, missing, dataclasses.replace(good, commitment=b"")):
        with pytest.raises(SecureSumError, match="Expected from c00"):
            server.receive_shares("c00", shares)
    server.receive_shares("c00", good)
    for name in ("c01", "c02", "c03"):
        server.receive_shares(name, party.clients[name].share(everyone))
    inboxes = server.close_shares()
    for wrong in (np.zeros(8, np.int64), np.zeros(7, "<u2"), np.zeros((8, 1), "<u2")):
        with pytest.raises(SecureSumError, match="Expected from c00"):
            server.receive_masked("c00", wrong)
    for name in ("c00", "c01", "c02"):
        server.receive_masked(name, party.clients[name].mask(np.ones(8, np.int64), inboxes[name]))
    survivors = server.close_masked()
    with pytest.raises(SecureSumError, match="waits for confirmations"):
        server.receive_masked("c03", np.zeros(8, "<u2"))
    with pytest.raises(SecureSumError, match="signature of c00"):
        server.receive_confirmation("c00", bytes(64))
    for name in survivors:
        server.receive_confirmation(name, party.clients[name].confirm(survivors))
    confirmations = server.close_confirmations()
    reveals = {name: party.clients[name].unmask(confirmations) for name in survivors}
    with pytest.raises(SecureSumError, match="seeds' shares"):
        server.receive_reveal("c00", dataclasses.replace(reveals["c00"], keys={}))
    with pytest.raises(SecureSumError, match="can't be closed"):
        server.close_masked()
    for name in survivors:
        server.receive_reveal(name, reveals[name])
    assert server.total().tolist() == [3] * 8
    with pytest.raises(SecureSumError, match="the end"):
        server.total()


def test_residues_above_the_modulus_are_dropped():
    party = Party(round_=facts(3, 2, bits=12))
    server = SumServer(party.round_, roster=party.roster)
    for name, client in party.clients.items():
        server.receive_advert(name, client.advertise())
    adverts = server.close_adverts()
    for name, client in party.clients.items():
        server.receive_shares(name, client.share(adverts))
    server.close_shares()
    with pytest.raises(SecureSumError, match="below 2\\^12"):
        server.receive_masked("c00", np.full(8, 4096, "<u2"))
