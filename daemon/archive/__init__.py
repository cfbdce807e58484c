"""The archive of dead letters: kept in the database when Redis has forgotten them (docs/dead-letters.md).

In order: `letters` (what it gives and is asked for), `table` (its columns), `database` (who reads and writes them),
`archiver` (who brings dead letters there from Redis, and sends them back).
"""
