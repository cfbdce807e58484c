"""The sidecar probe: liveness from the worker's heartbeat file, metrics, and the backlog autoscalers read.

``health`` judges heartbeat files, ``exposition`` renders Prometheus text, ``app`` answers requests, ``server`` listens.
"""
