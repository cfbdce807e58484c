"""Search: an index of the words of a family's jobs, bounded in bytes, projected from its events (docs/search.md).

In order: `words` (what of a job is found), `postings` (how it is written), `indexer` (who writes it, and when), `query`
(who reads it).
"""
