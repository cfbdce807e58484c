"""How a producer hands jobs over, beside `daemon.producer`: what a caller gets and may ask for, and how it is sent.

In order: `options` (what can be asked for; `keep`), `bulk` and `batches` (many jobs), `handover` (to the script),
`added` (what it says), `handle` (what the caller gets), `replies` (how it hears of results), `sync_producer` (without
await).
"""
