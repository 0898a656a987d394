"""Benchmarks of the operators: `python -m maya.kernels.bench`; docs/benchmarks/README.md explains them.

Every kernels/<op>/bench.py has two functions:

* `forms(setting)`: the ways to compute the operator, on the same inputs in every process;
* `reference(setting, exact=)`: the reference of the check, plain torch in the setting's dtype, or in fp64.
"""
