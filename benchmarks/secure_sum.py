"""What a secure sum costs: seconds on the server and on one client, bytes from and to one client.

    python benchmarks/secure_sum.py --cohorts 10,50,100 --dimension 16384

A tenth of the cohort falls out after sharing its keys, the costliest moment for the server. One process plays all
clients one after another; a client's seconds are the mean over the cohort and hold its whole round, noise included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmrank.privacy.distributed import DistributedNoise, plan_distributed
from mmrank.privacy.noise import SecureNoise
from mmrank.secure_sum.client import SumClient
from mmrank.secure_sum.keys import Identity, Roster
from mmrank.secure_sum.messages import pack
from mmrank.secure_sum.server import SumServer


class Clock:
    """Seconds of CPU spent inside `of`, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def of(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = call(*args, **kwargs)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        return result


def size(round_: Any, *tables: Mapping[str, bytes]) -> int:
    return sum(array.nbytes for table in tables for array in pack(table, round_).values())


def one_round(mechanism: DistributedNoise, clock: Clock) -> tuple[int, int]:
    """(bytes up, bytes down) of one surviving client."""
    names = [f"device-{i:04d}" for i in range(mechanism.cohort)]
    identities = {name: Identity() for name in names}
    roster = Roster({name: identity.public for name, identity in identities.items()})
    round_ = mechanism.sum_round(run="benchmark", round_number=1, cohort=names)
    clients = {n: SumClient(round_, client=n, identity=identities[n], roster=roster) for n in names}
    server = SumServer(round_, roster=roster)
    update = np.full(mechanism.dimension, 0.01)
    for name in names:
        clock.of("server", server.receive_advert, name, clock.of("keys", clients[name].advertise))
    adverts = clock.of("server", server.close_adverts)
    for name in names:
        shares = clock.of("shares", clients[name].share, adverts)
        clock.of("server", server.receive_shares, name, shares)
    inboxes = clock.of("server", server.close_shares)
    for name in names[max(1, len(names) // 10) :]:
        values = clock.of("noise", mechanism.encode, update, round_=round_, noise=SecureNoise())
        vector = clock.of("masks", clients[name].mask, values, inboxes[name])
        clock.of("server", server.receive_masked, name, vector)
    survivors = clock.of("server", server.close_masked)
    for name in survivors:
        clock.of("server", server.receive_confirmation, name, clock.of("unmask", clients[name].confirm, survivors))
    confirmations = clock.of("server", server.close_confirmations)
    for name in survivors:
        reveal = clock.of("unmask", clients[name].unmask, confirmations)
        clock.of("server", server.receive_reveal, name, reveal)
    clock.of("server", server.total)
    up = 128 + size(round_, shares.sealed) + 32 + vector.nbytes + 64 + size(round_, reveal.seeds, reveal.keys)
    down = size(round_, adverts, inboxes[name], confirmations) + 4 * len(survivors)
    return up, down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", default="10,50,100")
    parser.add_argument("--dimension", type=int, default=16_384)
    parser.add_argument("--bits", type=int, default=None)
    arguments = parser.parse_args()
    print("cohort threshold bits  server s  client s (keys shares noise masks unmask)      up kB  down kB  z kept")
    for cohort in map(int, arguments.cohorts.split(",")):
        threshold = cohort * 2 // 3 + 1
        mechanism = plan_distributed(
            noise_multiplier=1.0,
            max_grad_norm=0.5,
            dimension=arguments.dimension,
            threshold=threshold,
            colluders=0,
            cohort=cohort,
            bits=arguments.bits,
        )
        clock = Clock()
        up, down = one_round(mechanism, clock)
        live = cohort - max(1, cohort // 10)
        parts = {
            name: clock.seconds[name] / (cohort if name in ("keys", "shares") else live)
            for name in ("keys", "shares", "noise", "masks", "unmask")
        }
        detail = " ".join(f"{seconds:.4f}" for seconds in parts.values())
        print(
            f"{cohort:6d} {threshold:9d} {mechanism.bits:4d} {clock.seconds['server']:9.3f} {sum(parts.values()):9.4f}"
            f" ({detail}) {up / 1e3:9.1f} {down / 1e3:8.1f} {mechanism.effective_noise_multiplier:8.5f}"
        )


if __name__ == "__main__":
    main()
