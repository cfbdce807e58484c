"""By what to scale workers: traces of jobs replayed against KEDA's and the HPA's arithmetic, in simulated time.

`traces` are the jobs, `scaler` is the arithmetic, `fleet` the pods that run them, `report` the table and the plots.
"""
