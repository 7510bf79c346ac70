"""How fast a network is on this machine: `resnest benchmark`. Measures; prints nothing.

job.py       what was asked for, and the whole of it in a working process
subjects.py  a network with weights on each engine; measure.py puts all together
timing.py    cases in turn, and the medians of what they took
matmul.py    the machine's own rate: a float32 matrix product
stages.py    share of time by stage of the network
pipeline.py  decoding and resizing beside the network
machine.py   what was measured on
"""
