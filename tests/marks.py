"""What cannot apply to every kind of server that ``pytest --server`` takes, and why."""

import pytest

#: Stock arq's own ids have no tag, and in a cluster they need the family's.
stock_ids = pytest.mark.only_on("valkey", "redis", "sentinel", reason="ids of a stock client have no tag of a family")
#: Stock arq knows no cluster, and takes one server's URL.
stock_arq = pytest.mark.only_on("valkey", "redis", "sentinel", reason="stock arq's client cannot work in a cluster")
one_url = pytest.mark.only_on("valkey", "redis", reason="something other than arqd is given the URL of one server")
#: It is about one server's own life, settings or memory.
one_server = pytest.mark.only_on("valkey", "redis", reason="it is about one server's own life or settings")
#: In a cluster one call has keys of one slot, so each family makes calls of its own.
one_place = pytest.mark.only_on(
    "valkey", "redis", "sentinel", reason="keys of several families are not in one place there"
)
