"""At stake: that the server, which holds every message of a round, can't rebuild one client's update."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import stats

from mmrank.secure_sum import masks
from mmrank.secure_sum.messages import Advert
from mmrank.secure_sum.shamir import join, weights_at_zero
from tests.secure_sum.rounds import Party, View, facts, play

LOST = {"advert": ["c00"], "shares": ["c01"], "masked": ["c02", "c03"], "confirmation": ["c04"], "reveal": ["c05"]}
"""One or two clients fall out at each stage; those of "masked" come too late, and the server holds their vectors."""
IN_SUM = tuple(f"c{i:02d}" for i in range(4, 14))


def secret_round(length: int = 64, values=None, bits: int = 16):
    """(party, what each client keeps when it has masked, the server's view); 14 clients, 8 needed."""
    party = Party(round_=facts(14, 8, length=length, bits=bits))
    kept = {}

    def look(step: str) -> None:
        if step == "shares":
            kept.update({name: client._state for name, client in party.clients.items()})

    zeros = np.zeros(length, np.int64)
    return party, kept, play(party, values or (lambda name: zeros), lost=LOST, between=look)


def opened(party: Party, view: View) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(seeds, mask keys) that the server's own messages open, as it opens them."""
    helpers = sorted(view.reveals)[: party.round_.threshold]
    weights = weights_at_zero([party.round_.points[name] for name in helpers])
    seeds = {name: join([view.reveals[h].seeds[name] for h in helpers], weights) for name in view.survivors}
    fallen = set(view.shares) - set(view.survivors)
    return seeds, {name: join([view.reveals[h].keys[name] for h in helpers], weights) for name in fallen}


def without_known_masks(party: Party, view: View, name: str) -> np.ndarray:
    """The masked vector of a survivor, less everything that the server can compute."""
    seeds, keys = opened(party, view)
    total = view.masked[name] - masks.self_mask(seeds[name], party.round_, name)
    for fallen, key in keys.items():
        total = total + masks.pair_mask(key, Advert.from_bytes(view.adverts[name]).mask, party.round_, fallen, name)
    return total & party.round_.dtype.type(party.round_.largest)


def is_uniform(words: np.ndarray, bits: int = 16) -> bool:
    """Chi-square over 64 bins of the highest bits, at a false alarm rate of 1e-10: a test looks at hundreds of sums."""
    return stats.chisquare(np.bincount(words.astype(np.int64) >> (bits - 6), minlength=64)).pvalue > 1e-10


def test_the_round_does_end_in_the_sum():
    party, _, view = secret_round(values=lambda name: np.full(64, int(name[1:])))
    assert view.survivors == IN_SUM
    assert sorted(opened(party, view)[1]) == ["c02", "c03"]
    assert view.total.tolist() == [sum(range(4, 14))] * 64


def test_each_masked_vector_is_uniform_and_unlike_every_other():
    _, _, view = secret_round(length=20_000, values=lambda name: np.full(20_000, 7))
    sent = [*view.masked.values(), *view.late.values()]
    assert len(sent) == 12
    for vector in sent:
        assert is_uniform(vector)
    for one, other in itertools.combinations(sent, 2):
        assert is_uniform(one - other)
    assert not is_uniform(np.full(20_000, 7))  # the test sees what is not


def test_taking_away_all_that_the_server_knows_leaves_noise_on_every_proper_subset():
    party, _, view = secret_round(length=4000, values=lambda name: np.full(4000, 7))
    left = {name: without_known_masks(party, view, name) for name in view.survivors}
    for count in range(1, len(left)):
        for chosen in itertools.islice(itertools.combinations(sorted(left), count), 0, None, max(1, count)):
            partial = np.sum([left[name] for name in chosen], axis=0, dtype=np.uint16)
            assert is_uniform(partial), chosen
    assert (np.sum(list(left.values()), axis=0, dtype=np.uint16) == 7 * len(left)).all()


def test_a_vector_that_came_late_stays_masked_though_its_key_was_opened():
    """The reason for the second mask: the server holds the late vector and every pairwise mask of it."""
    party, kept, view = secret_round(length=20_000, values=lambda name: np.full(20_000, 7))
    _, keys = opened(party, view)
    for name in ("c02", "c03"):
        total = view.late[name]
        for peer in set(view.shares) - {name}:
            public = Advert.from_bytes(view.adverts[peer]).mask
            total = total - masks.pair_mask(keys[name], public, party.round_, name, peer)
        assert is_uniform(total)
        # with the seed, of which nobody told a share, it would lie open
        assert (total - masks.self_mask(kept[name].seed, party.round_, name) == 7).all()


def test_of_no_client_both_secrets_are_told():
    _, kept, view = secret_round()
    for name in view.shares:
        told = {
            "seed": [reveal.seeds[name] for reveal in view.reveals.values() if name in reveal.seeds],
            "key": [reveal.keys[name] for reveal in view.reveals.values() if name in reveal.keys],
        }
        assert sorted(len(shares) for shares in told.values()) == [0, len(view.reveals)], name
    # nor does a secret stand anywhere in the clear
    seen = b"".join(
        [*view.adverts.values(), *(part for shares in view.shares.values() for part in shares.sealed.values())]
        + [vector.tobytes() for vector in view.masked.values()]
    )
    for state in kept.values():
        for secret in (state.seed, state.mask_key, state.cipher_key):
            assert not secret or secret not in seen


def test_the_view_is_the_same_for_every_set_of_inputs_with_the_same_sum():
    """A simulator in code. The pairwise masks between survivors are all that the server does not hold; X25519 and
    ChaCha20 make them uniform to it. For other inputs of the same sum there are other masks, as likely, with which each
    survivor sends the very same bytes; nothing else that it sends depends on its input.
    """
    party, kept, view = secret_round(values=lambda name: np.full(64, int(name[1:])))
    round_ = party.round_
    generator = np.random.Generator(np.random.PCG64(5))
    others = {name: generator.integers(0, 2**16, 64) for name in IN_SUM}
    others[IN_SUM[-1]] = (sum(range(4, 14)) - sum(others[name] for name in IN_SUM[:-1])) & round_.largest

    def all_masks(name: str) -> dict[str, np.ndarray]:
        peers = sorted(set(view.shares) - {name})
        public = {peer: Advert.from_bytes(view.adverts[peer]).mask for peer in peers}
        return {peer: masks.pair_mask(kept[name].mask_key, public[peer], round_, name, peer) for peer in peers}

    pairs = {name: all_masks(name) for name in IN_SUM}
    owed = np.zeros(64, round_.dtype)
    for name, after in itertools.pairwise(
        IN_SUM
    ):  # along a path through the survivors, each owes the next the difference
        owed = (owed + (int(name[1:]) - others[name]).astype(round_.dtype)).astype(round_.dtype)
        pairs[name][after] = pairs[name][after] + owed
        pairs[after][name] = pairs[after][name] - owed
    for name in IN_SUM:
        own = masks.self_mask(kept[name].seed, round_, name)
        again = masks.masked(others[name].astype(np.int64), [own, *pairs[name].values()], round_)
        assert again.tobytes() == view.masked[name].tobytes()
        assert not np.array_equal(others[name], np.full(64, int(name[1:])))
    for name, other in itertools.combinations(IN_SUM, 2):  # the masks are still pairwise: what one adds the other takes
        assert not (pairs[name][other] + pairs[other][name]).any()
    # the masks towards those who fell out, which the server can compute, were left as they are
    assert all((pairs[name][gone] == all_masks(name)[gone]).all() for name in IN_SUM for gone in ("c02", "c03"))


def test_the_messages_other_than_masked_vectors_do_not_depend_on_the_inputs():
    """Every other step of the client runs without its input: it is an argument of `mask` alone, and is not kept."""
    party = Party(round_=facts(3, 2))
    marked = np.full(8, 0xBEE5)
    states = {}

    def look(step: str) -> None:
        states[step] = [client.save() for client in party.clients.values()]

    play(party, lambda name: marked, between=look)
    for saved in states["masked"] + states["confirmation"]:
        assert marked.astype("<u2").tobytes().hex().encode() not in saved
    assert set(states) == {"advert", "shares", "masked", "confirmation"}


def test_fewer_shares_than_the_threshold_open_nothing():
    """Whichever 7 clients put together what they told, or would tell, of a survivor: 8 are needed."""
    party, kept, view = secret_round()
    told = {name: reveal.seeds[IN_SUM[0]] for name, reveal in view.reveals.items()}
    for chosen in itertools.combinations(sorted(told), party.round_.threshold - 1):
        weights = weights_at_zero([party.round_.points[name] for name in chosen])
        assert join([told[name] for name in chosen], weights) != kept[IN_SUM[0]].seed
