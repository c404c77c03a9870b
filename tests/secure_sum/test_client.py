"""At stake: a client that says two things, or answers what is not of its round, opens its own update to the server."""

import copy
import pickle

import numpy as np
import pytest

from mmrank.errors import BelowThresholdError, SecureSumError
from mmrank.secure_sum.client import SumClient
from mmrank.secure_sum.keys import Identity, Roster
from mmrank.secure_sum.messages import Advert, confirmation
from mmrank.secure_sum.sum_round import SumRound
from tests.secure_sum.rounds import Party, facts

ZEROS = np.zeros(8, np.int64)
ME = "c00"


def party(**changes) -> Party:
    return Party(round_=facts(**{"size": 5, "threshold": 3} | changes))


def at_share(**changes):
    cohort = party(**changes)
    return cohort, {name: client.advertise() for name, client in cohort.clients.items()}


def at_mask(**changes):
    cohort, adverts = at_share(**changes)
    shares = {name: client.share(adverts) for name, client in cohort.clients.items()}
    inboxes = {to: {of: shares[of].sealed[to] for of in shares if of != to} for to in shares}
    return cohort, inboxes


def at_confirm(**changes):
    cohort, inboxes = at_mask(**changes)
    for name, client in cohort.clients.items():
        client.mask(np.zeros(cohort.round_.length, np.int64), inboxes[name])
    return cohort


def at_unmask(survivors, **changes):
    cohort = at_confirm(**changes)
    return cohort, {name: cohort.clients[name].confirm(survivors) for name in survivors}


def readvertised(cohort: Party, round_: SumRound, name: str) -> bytes:
    return cohort.client(name, round_).advertise()


# who takes part


def test_a_cohort_that_lacks_the_client_is_refused():
    cohort = party()
    with pytest.raises(SecureSumError, match="not in the cohort"):
        SumClient(cohort.round_, client="zz", identity=Identity(), roster=cohort.roster)


def test_an_identity_that_the_roster_does_not_list_is_refused():
    cohort = party()
    with pytest.raises(SecureSumError, match="roster"):
        SumClient(cohort.round_, client=ME, identity=Identity(), roster=cohort.roster)
    with pytest.raises(SecureSumError, match="roster"):
        SumClient(cohort.round_, client=ME, identity=cohort.identities[ME], roster=Roster({}))


# adverts


def test_an_unsigned_advert_is_refused():
    cohort, adverts = at_share()
    adverts["c01"] = adverts["c01"][:64] + bytes(64)
    with pytest.raises(SecureSumError, match="signature of c01"):
        cohort.clients[ME].share(adverts)


def test_an_advert_that_another_identity_signed_is_refused():
    """The server puts keys of its own in a client's place, signed by an identity that it invented."""
    cohort, adverts = at_share()
    impostor = Party(round_=cohort.round_)
    adverts["c01"] = impostor.clients["c01"].advertise()
    with pytest.raises(SecureSumError, match="signature of c01"):
        cohort.clients[ME].share(adverts)


def test_an_advert_of_another_client_is_refused():
    cohort, adverts = at_share()
    adverts["c01"] = adverts["c02"]
    with pytest.raises(SecureSumError, match="once among the adverts"):
        cohort.clients[ME].share(adverts)
    del adverts["c02"]
    with pytest.raises(SecureSumError, match="signature of c01"):
        cohort.clients[ME].share(adverts)


@pytest.mark.parametrize(
    "changes",
    [{"round_number": 2}, {"run": "other"}, {"threshold": 4}, {"size": 4}],
    ids=["round", "run", "t", "cohort"],
)
def test_an_advert_of_another_round_run_or_cohort_is_refused(changes):
    cohort, adverts = at_share()
    other = facts(**{"size": 5, "threshold": 3} | changes)
    adverts["c01"] = readvertised(cohort, other, "c01")
    with pytest.raises(SecureSumError, match="signature of c01"):
        cohort.clients[ME].share(adverts)


def test_a_stranger_among_the_adverts_is_refused():
    cohort, adverts = at_share()
    with pytest.raises(SecureSumError, match="'zz'"):
        cohort.clients[ME].share({**adverts, "zz": adverts["c01"]})


def test_adverts_without_the_clients_own_or_with_another_in_its_place_are_refused():
    cohort, adverts = at_share()
    without = {name: advert for name, advert in adverts.items() if name != ME}
    with pytest.raises(SecureSumError, match="c00 in the list"):
        cohort.clients[ME].share(without)
    again = readvertised(cohort, cohort.round_, ME)
    with pytest.raises(SecureSumError, match="another was put in its place"):
        cohort.clients[ME].share({**adverts, ME: again})


def test_a_public_key_used_twice_is_refused():
    cohort, adverts = at_share()
    first = Advert.from_bytes(adverts["c01"])
    statement = Advert.statement(cohort.round_, "c02", first.cipher, first.mask)
    copied = Advert(cipher=first.cipher, mask=first.mask, signature=cohort.identities["c02"].sign(statement))
    with pytest.raises(SecureSumError, match="once among"):
        cohort.clients[ME].share({**adverts, "c02": copied.to_bytes()})


def test_a_key_of_low_order_is_refused_though_it_is_signed():
    cohort, adverts = at_share()
    weak = (bytes(32), Advert.from_bytes(adverts["c01"]).mask)
    signature = cohort.identities["c01"].sign(Advert.statement(cohort.round_, "c01", *weak))
    adverts["c01"] = Advert(cipher=weak[0], mask=weak[1], signature=signature).to_bytes()
    with pytest.raises(SecureSumError, match="no key"):
        cohort.clients[ME].share(adverts)


def test_too_few_adverts_are_refused():
    cohort, adverts = at_share()
    with pytest.raises(BelowThresholdError, match="threshold=3"):
        cohort.clients[ME].share({name: adverts[name] for name in (ME, "c01")})


# shares and values


def test_a_share_that_was_changed_or_sealed_for_another_is_refused():
    cohort, inboxes = at_mask()
    mine = inboxes[ME]
    for wrong in (mine["c01"][:-1] + bytes([mine["c01"][-1] ^ 1]), mine["c02"], inboxes["c03"]["c01"], b""):
        with pytest.raises(SecureSumError, match="does not open"):
            cohort.clients[ME].mask(ZEROS, {**mine, "c01": wrong})


def test_a_share_of_another_round_is_refused():
    cohort, inboxes = at_mask()
    _, others = at_mask()
    with pytest.raises(SecureSumError, match="does not open"):
        cohort.clients[ME].mask(ZEROS, {**inboxes[ME], "c01": others[ME]["c01"]})


def test_too_few_shares_or_those_of_a_stranger_are_refused():
    cohort, inboxes = at_mask()
    with pytest.raises(BelowThresholdError, match="threshold=3"):
        cohort.clients[ME].mask(ZEROS, {"c01": inboxes[ME]["c01"]})
    with pytest.raises(SecureSumError, match="'zz'"):
        cohort.clients[ME].mask(ZEROS, {**inboxes[ME], "zz": inboxes[ME]["c01"]})


@pytest.mark.parametrize(
    "values", [np.zeros(7, np.int64), np.zeros(8), np.full(8, -1), np.full(8, 2**16), np.zeros((1, 8), np.int64)]
)
def test_values_that_are_no_residues_are_refused(values):
    cohort, inboxes = at_mask()
    with pytest.raises(SecureSumError, match="Expected integers"):
        cohort.clients[ME].mask(values, inboxes[ME])


# survivors


def test_only_one_list_of_survivors_is_ever_signed():
    cohort = at_confirm()
    cohort.clients[ME].confirm(["c00", "c01", "c02"])
    for again in (["c00", "c01", "c03"], ["c00", "c01", "c02"]):
        with pytest.raises(SecureSumError, match="answered once"):
            cohort.clients[ME].confirm(again)


@pytest.mark.parametrize(
    ("survivors", "match"),
    [
        (["c00", "c01"], "threshold=3"),
        (["c01", "c02", "c03"], "c00 in the list"),
        (["c00", "c01", "c02", "c02"], "each client once"),
        (["c00", "c01", "c02", "zz"], "'zz'"),
    ],
    ids=["too few", "without me", "one twice", "a stranger"],
)
def test_a_list_of_survivors_that_would_tell_more_is_refused(survivors, match):
    cohort = at_confirm()
    with pytest.raises(SecureSumError, match=match):
        cohort.clients[ME].confirm(survivors)
    assert cohort.clients[ME].stage == "masked"


def test_a_survivor_that_never_shared_keys_is_refused():
    cohort, inboxes = at_mask()
    mine = {name: sealed for name, sealed in inboxes[ME].items() if name != "c04"}
    cohort.clients[ME].mask(ZEROS, mine)
    with pytest.raises(SecureSumError, match="'c04'"):
        cohort.clients[ME].confirm(["c00", "c01", "c04"])


# unmasking


def test_of_each_peer_the_seed_or_the_key_is_told_and_never_both():
    survivors = ("c00", "c01", "c02", "c03")
    cohort, confirmations = at_unmask(survivors)
    reveal = cohort.clients[ME].unmask(confirmations)
    assert set(reveal.seeds) == set(survivors)
    assert set(reveal.keys) == {"c04"}


def test_a_second_unmasking_is_refused_for_the_same_and_for_another_list():
    survivors = ("c00", "c01", "c02")
    cohort, confirmations = at_unmask(survivors)
    cohort.clients[ME].unmask(confirmations)
    other = ("c00", "c01", "c03")  # another list, well signed by all of them
    statement = confirmation(cohort.round_, cohort.round_.cohort, other)
    others = {name: cohort.identities[name].sign(statement) for name in other}
    for again in (confirmations, others):
        with pytest.raises(SecureSumError, match="answered once"):
            cohort.clients[ME].unmask(again)


def test_two_halves_that_were_told_two_lists_tell_nothing():
    """The server's lie: half of the cohort signs one list, half another; neither has enough signatures."""
    cohort = at_confirm()
    first, second = ("c00", "c01", "c02"), ("c00", "c01", "c02", "c03", "c04")
    signed = {name: cohort.clients[name].confirm(first) for name in ("c00", "c01")}
    signed |= {name: cohort.clients[name].confirm(second) for name in ("c02", "c03", "c04")}
    with pytest.raises(SecureSumError, match="signature of c02"):
        cohort.clients[ME].unmask({name: signed[name] for name in first})
    with pytest.raises(BelowThresholdError, match="threshold=3"):
        cohort.clients[ME].unmask({name: signed[name] for name in ("c00", "c01")})


def test_confirmations_unsigned_replayed_or_of_another_list_are_refused():
    survivors = ("c00", "c01", "c02")
    cohort, confirmations = at_unmask(survivors)
    replayed = Party(round_=facts(round_number=2), identities=cohort.identities)
    adverts = {name: client.advertise() for name, client in replayed.clients.items()}
    shares = {name: client.share(adverts) for name, client in replayed.clients.items()}
    for to, client in replayed.clients.items():
        client.mask(ZEROS, {of: shares[of].sealed[to] for of in shares if of != to})
    of_round_two = replayed.clients["c01"].confirm(survivors)
    for wrong in (bytes(64), confirmations["c02"], of_round_two):
        with pytest.raises(SecureSumError, match="signature of c01"):
            cohort.clients[ME].unmask({**confirmations, "c01": wrong})
    with pytest.raises(SecureSumError, match="'c03'"):
        cohort.clients[ME].unmask({**confirmations, "c03": confirmations["c01"]})
    with pytest.raises(SecureSumError, match="c00 in the list"):
        cohort.clients[ME].unmask({name: value for name, value in confirmations.items() if name != ME})


# order and durability


def test_steps_out_of_order_or_repeated_are_refused():
    cohort, adverts = at_share()
    me = cohort.clients[ME]
    for early in (lambda: me.mask(ZEROS, {}), lambda: me.confirm([ME]), lambda: me.unmask({}), me.advertise):
        with pytest.raises(SecureSumError, match="answered once"):
            early()
    me.share(adverts)
    with pytest.raises(SecureSumError, match="answered once"):
        me.share(adverts)


def test_one_mask_covers_one_vector():
    cohort, inboxes = at_mask()
    cohort.clients[ME].mask(ZEROS, inboxes[ME])
    for values in (ZEROS, ZEROS + 1):
        with pytest.raises(SecureSumError, match="answered once"):
            cohort.clients[ME].mask(values, inboxes[ME])


def test_a_refused_step_can_still_be_answered_rightly():
    cohort, adverts = at_share()
    with pytest.raises(SecureSumError, match="signature"):
        cohort.clients[ME].share({**adverts, "c01": adverts["c01"][:64] + bytes(64)})
    assert set(cohort.clients[ME].share(adverts).sealed) == {"c01", "c02", "c03", "c04"}


def test_a_saved_state_is_bound_to_its_client_and_round_and_damage_is_noticed():
    cohort, _ = at_share()
    me, kept = cohort.clients[ME], cohort.clients[ME].save()
    bound = {"client": ME, "identity": cohort.identities[ME], "roster": cohort.roster}
    assert SumClient.restore(kept, cohort.round_, **bound).stage == me.stage == "advertised"
    with pytest.raises(SecureSumError, match="of another"):
        SumClient.restore(kept, facts(round_number=2), **bound)
    with pytest.raises(SecureSumError, match="of another"):
        SumClient.restore(cohort.clients["c01"].save(), cohort.round_, **bound)
    for damaged in (kept[:-5], b"", b"{}", b"[]", kept.replace(b"advertised", b"nonesuch")):
        with pytest.raises(SecureSumError, match="saved state"):
            SumClient.restore(damaged, cohort.round_, **bound)


def test_a_client_has_no_twin():
    client = party().clients[ME]
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(SecureSumError, match="twin"):
            duplicate(client)


def test_secrets_are_let_go_of_at_the_end_and_never_printed():
    survivors = ("c00", "c01", "c02")
    cohort, confirmations = at_unmask(survivors)
    state = cohort.clients[ME]._state
    assert state.seed.hex() not in repr(state)
    assert state.mask_key.hex() not in repr(state)
    cohort.clients[ME].unmask(confirmations)
    kept = cohort.clients[ME].save().decode()
    assert state.seed.hex() not in kept
    assert state.mask_key.hex() not in kept
    assert state.cipher_key.hex() not in kept
