"""The payments family. `tasks` retries a charge: `attempts` writes it down before the call, `stripe`, `yookassa` and
`crypto` talk to the providers. `commissions` keeps the books. ``worker`` ties the family together.
"""
