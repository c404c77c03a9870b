"""At stake: peers that a server could invent, and keys that serve two purposes."""

import copy
import json
import pickle

import numpy as np
import pytest
from scipy import stats

from mmrank.errors import ConfigError, SecureSumError
from mmrank.secure_sum import keys, masks
from tests.secure_sum.rounds import facts


def test_a_roster_accepts_its_clients_signature_of_that_statement_alone():
    one, two = keys.Identity(), keys.Identity()
    roster = keys.Roster({"a": one.public, "b": two.public})
    roster.check("a", b"statement", one.sign(b"statement"))
    for client, statement, signature in [
        ("a", b"other", one.sign(b"statement")),
        ("b", b"statement", one.sign(b"statement")),
        ("a", b"statement", bytes(64)),
        ("a", b"statement", b""),
    ]:
        with pytest.raises(SecureSumError, match="signature of"):
            roster.check(client, statement, signature)
    with pytest.raises(SecureSumError, match="not in the roster"):
        roster.check("c", b"statement", one.sign(b"statement"))


def test_a_roster_goes_through_a_file(tmp_path):
    roster = keys.Roster({name: keys.Identity().public for name in ("b", "a")})
    roster.write(tmp_path / "roster.json")
    assert keys.Roster.read(tmp_path / "roster.json").identities == roster.identities


@pytest.mark.parametrize("text", ["", "[]", '{"a": "zz"}', '{"a": 1}', '{"a": "00"}', '{"a": "%s", "a": "%s"}'])
def test_a_file_that_is_no_roster_is_refused(tmp_path, text):
    if "%s" in text:
        text %= (keys.Identity().public.hex(), keys.Identity().public.hex())
    (tmp_path / "roster.json").write_text(text)
    with pytest.raises(ConfigError, match="Expected"):
        keys.Roster.read(tmp_path / "roster.json")


def test_two_clients_can_not_share_an_identity(tmp_path):
    public = keys.Identity().public
    with pytest.raises(ConfigError, match="one identity"):
        keys.Roster({"a": public, "b": public})
    (tmp_path / "roster.json").write_text(json.dumps({"a": public.hex(), "b": public.hex()}))
    with pytest.raises(ConfigError, match="one identity"):
        keys.Roster.read(tmp_path / "roster.json")


def test_an_identity_is_kept_by_its_secret_bytes_alone():
    identity = keys.Identity()
    assert keys.Identity(identity.secret_bytes()).public == identity.public
    for duplicate in (copy.copy, pickle.dumps):
        with pytest.raises(SecureSumError, match="not pickled"):
            duplicate(identity)
    with pytest.raises(SecureSumError, match="32 bytes"):
        keys.Identity(b"short")


def test_both_sides_agree_on_one_key_for_each_purpose():
    a, b = keys.new_agreement_key(), keys.new_agreement_key()
    of_a = keys.agree(a, keys.agreement_public(b), b"purpose")
    assert of_a == keys.agree(b, keys.agreement_public(a), b"purpose")
    assert of_a != keys.agree(a, keys.agreement_public(b), b"purpose 2")


def test_a_public_key_of_low_order_is_refused():
    with pytest.raises(SecureSumError, match="no key"):
        keys.agree(keys.new_agreement_key(), bytes(32), b"")
    with pytest.raises(SecureSumError, match="no key"):
        keys.agree(keys.new_agreement_key(), b"short", b"")


def test_a_seal_opens_for_its_statement_alone_and_notices_every_changed_byte():
    key = keys.new_agreement_key()
    sealed = keys.seal(key, b"secret", b"statement")
    assert keys.unseal(key, sealed, b"statement") == b"secret"
    assert len(sealed) == len(b"secret") + keys.SEAL_BYTES
    changed = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for wrong, statement in [*((c, b"statement") for c in changed), (sealed, b"other"), (b"", b"statement")]:
        with pytest.raises(SecureSumError, match="does not open"):
            keys.unseal(key, wrong, statement)


@pytest.mark.parametrize("bits", [12, 16, 32])
def test_a_mask_is_uniform_and_cancels_between_two(bits):
    round_ = facts(length=20_000, bits=bits)
    a, b = keys.new_agreement_key(), keys.new_agreement_key()
    of_a = masks.pair_mask(a, keys.agreement_public(b), round_, "c01", "c03")
    of_b = masks.pair_mask(b, keys.agreement_public(a), round_, "c03", "c01")
    assert not masks.masked(of_a, [of_b], round_).any()
    top = np.bincount((of_a & round_.largest) >> (bits - 6), minlength=64)
    assert stats.chisquare(top).pvalue > 1e-6
    assert len(np.unique(of_a[:1000])) > 950


def test_masks_differ_by_round_run_client_and_purpose():
    seed, a, b = bytes(32), keys.new_agreement_key(), keys.new_agreement_key()
    rounds = [facts(), facts(round_number=2), facts(run="other"), facts(threshold=4), facts(size=6, threshold=4)]
    drawn = [masks.self_mask(seed, round_, name).tobytes() for round_ in rounds for name in ("c01", "c02")]
    public = keys.agreement_public(b)
    drawn += [masks.pair_mask(a, public, round_, "c01", name).tobytes() for round_ in rounds for name in ("c02", "c03")]
    assert len(set(drawn)) == len(drawn)
