"""For the tests of those who use arqd.

``handlers``    one try of one handler, without Redis: `run_handler`
``recording``   producers that send nothing and keep what they were given: `RecordingProducer`
``simulation``  families on a real Valkey in virtual time, with faults that a seed decides: `Simulation`
``plugin``      pytest fixtures: a fresh Valkey for each test

Below them: ``process`` (a simulated worker process), ``clock`` (the event loop with virtual time), ``wire`` (its way to
Redis). This package imports nothing by itself, and nothing else of arqd imports it.
"""
