"""How fast a network is on this machine: `resnest benchmark`. Measures; prints nothing.

benchmark.py  what was asked for, and the whole of it in a working process
measure.py    the engines, everything in turn, files to answers too; the figures
timing.py     cases in turn, medians of what they took; the machine's own rate
stages.py     share of time by stage of the network
"""
