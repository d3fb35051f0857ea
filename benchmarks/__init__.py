"""Measurements: `python -m benchmarks [family …]` times the operations against what people write today, in one run.

What a table shows for each way of computing the same thing:

    cold      median time of a call that finds nothing in the cache; outputs are allocated inside the timing
    warm      the same with one set of inputs over and over
    peer      how many times faster (cold) than the fastest peer of the same run: eager, torch.compile and others
    floor     how many times longer (cold) than the machine's floor, see `benchmarks.ceilings`
    error     largest error against float64, relative to max(1, |value|)
    memory    peak of what a call allocates beyond its inputs, outputs included
"""
