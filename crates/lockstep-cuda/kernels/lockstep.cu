// Every kernel of the backend, one module: compiled to the texts in ../ptx by dev/ptx.py.
#include "decode.cuh"
#include "moves.cuh"
#include "warpgroups.cuh"
