"""The other systems' programs: jobs, worker and producer of each, after its documentation.

Each runs in an environment of its own (`benchmarks.environments`) as ``python -m benchmarks.peers.<name> work`` or
``produce``, or is named to the library's own command; nothing here is imported by arqd's environment.
"""
