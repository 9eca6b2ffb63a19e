"""How fast models are on this machine, how much memory they take, and how long they take to load.

What is compared is measured in turns: each contender (a model in an engine with a number of threads) has a process of
its own, and in every round each of them answers some pictures, one contender after the other. What slows the machine
down for a while then slows all of them down; no runtime finds another's threads or memory in its process; and one that
crashes takes nothing with it.
"""
