"""`inarch bench`: measure what training and the parts of inarch cost, each beside a reference.

The benchmarks are listed in `catalog`, which imports all of them.
"""
