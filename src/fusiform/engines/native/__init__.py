"""fusiform's own kernels for int8 classifiers, in C: each answer equals LiteRT's, in about half its time.

The library is compiled when fusiform is installed, where there is a C compiler; see ``native.h`` for what it computes
and ``kernels.inc`` for how.
"""
