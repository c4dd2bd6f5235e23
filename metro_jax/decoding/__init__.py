"""Cached greedy decoding, beam search and sampling for any model that can take one more token (spec 2.9).

>>> decoded = decode(step, cache, batch, max_length=64, options=Beam(num_beams=4))
"""

from metro_jax.decoding.buckets import bucket_batch, bucket_length
from metro_jax.decoding.options import Beam, Greedy, Options, Sample
from metro_jax.decoding.rows import Cache, Decoded, Gather, Step, gather_rows
from metro_jax.decoding.search import decode

__all__ = [
    "Beam",
    "Cache",
    "Decoded",
    "Gather",
    "Greedy",
    "Options",
    "Sample",
    "Step",
    "bucket_batch",
    "bucket_length",
    "decode",
    "gather_rows",
]
