"""The blockchain family. `tasks` checks an event and hands it on, `indexer` follows a contract's events, `index` keeps
them, `contracts` reads them with web3, which only the running family loads. ``worker`` ties the family together.
"""
