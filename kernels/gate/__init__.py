"""The parts of the compile gate, kernels/compile_gate.py."""
