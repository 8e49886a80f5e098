"""Random numbers that belong to a target and a purpose, not to the order of work.

A row's draw depends on (seed, purpose, target) alone: never on its shard, its neighbours, the number of
workers, the batch size or whether a run was resumed.
"""

import hashlib

import numpy as np


def stream(seed: int, purpose: str, target: str) -> np.random.Generator:
    """The stream of random numbers of one target for one purpose.

    seed      the experiment's seed
    purpose   what is drawn, e.g. ``"injection/lens"``; two purposes never share a stream
    target    whose draw it is, e.g. a ``task_id``

    Returns a generator over Philox4x64 keyed by the first 128 bits of SHA-256 (Salmon et al. 2011): two
    streams collide with the probability of a hash collision.
    """
    text = "\x1f".join((str(int(seed)), purpose, target)).encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))
