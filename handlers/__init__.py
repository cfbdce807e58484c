"""The families that ship with arqd: name to ``module:WorkerSettings``. The one table.

A user's own families are added with ``ARQD_FAMILIES={"name": "module:Class"}``.
"""

FAMILIES = {
    "email": "handlers.email.worker:WorkerSettings",
}
