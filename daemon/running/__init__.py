"""What is around a job that runs, beside `daemon.executor`.

In order: `dialect` (its record read, its result written), `binding` (its payload validated), `run` (the try),
`deadlines` (its time limit), `receipts` (steps done once), `observer` (event and statistics of the try), `listeners`
(hooks of the family).
"""
